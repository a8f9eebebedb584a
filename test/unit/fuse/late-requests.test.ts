// Requests that a worker passes on: it sends no reply, and the main thread sends exactly one, with the unique of the request.

import { describe, expect, test, vi } from 'vitest';
import { ImgfuseError } from '../../../src/errors/index.ts';
import type { Filesystem, LateFilesystem } from '../../../src/fuse/filesystem.ts';
import { answerLate } from '../../../src/fuse/late-requests.ts';
import { FuseServer, type ServerHooks } from '../../../src/fuse/server.ts';
import { OPCODES, requestMessage, ScriptedChannel, text, UNIQUE, u32, u64 } from '../../support/fuse-messages.ts';

const NODE = 4;
const PROTOCOL = {
  ...{ major: 7, minor: 39, flags: 0, flags2: 0, maxWrite: 65536, maxPages: 16, maxReadahead: 0 },
  ...{ maxBackground: 1, congestionThreshold: 1, requestTimeout: 0 },
};
const OPEN = requestMessage(OPCODES.FUSE_OPEN, [u32(0), u32(0)], { nodeid: NODE });
const READ = requestMessage(OPCODES.FUSE_READ, [u64(7), u64(3), u32(100), u32(0), u64(0), u32(0), u32(0)], {
  nodeid: NODE,
});
const RELEASE = requestMessage(OPCODES.FUSE_RELEASE, [u64(7), u32(0), u32(0), u64(0)], { nodeid: NODE });
const FLUSH = requestMessage(OPCODES.FUSE_FLUSH, [u64(7), u32(0), u32(0), u64(0)], { nodeid: NODE });

const LATE: Partial<Filesystem> = {
  open: () => 'later',
  read: () => 'later',
  release: () => 'later',
  flush: () => undefined,
};

function serve(messages: readonly Buffer[], hooks: ServerHooks) {
  const channel = new ScriptedChannel(messages);
  new FuseServer(channel, PROTOCOL, LATE as Filesystem, hooks).serve();
  return channel.replies;
}

async function answer(message: Buffer, filesystem: Partial<LateFilesystem>) {
  const channel = new ScriptedChannel([]);
  const failure = await answerLate(message, channel, filesystem as LateFilesystem);
  expect(channel.replies).toHaveLength(1);
  return { failure, reply: channel.replies[0]! };
}

test('a worker passes on what is answered late, whole, and goes on with the next request', () => {
  const passed: Buffer[] = [];
  const later = (message: Uint8Array) => void passed.push(Buffer.from(message));
  const replies = serve([OPEN, READ, RELEASE, FLUSH], { later });
  expect(passed).toEqual([OPEN, READ, RELEASE]);
  expect(replies).toEqual([{ unique: UNIQUE, errno: 0, body: Buffer.alloc(0) }]);
});

test('without somebody who answers late such a request is an error, and not a hang', () => {
  expect(serve([OPEN], {}).map(({ errno }) => errno)).toEqual([95]);
});

describe('the answer', () => {
  test('to OPEN has the handle, and tells the kernel to ask for every byte', async () => {
    const open = vi.fn(async () => 7);
    const { reply, failure } = await answer(OPEN, { open });
    expect(open).toHaveBeenCalledWith(NODE);
    expect([reply.unique, reply.errno, failure]).toEqual([UNIQUE, 0, null]);
    expect([reply.body.readBigUInt64LE(0), reply.body.readUInt32LE(8)]).toEqual([7n, 1]);
  });

  test('to READ has the bytes, however few', async () => {
    const read = vi.fn(() => Buffer.from('{}'));
    const { reply } = await answer(READ, { read });
    expect(read).toHaveBeenCalledWith(7, 3, 100);
    expect(reply).toEqual({ unique: UNIQUE, errno: 0, body: Buffer.from('{}') });
    expect((await answer(READ, { read: () => new Uint8Array(100) })).reply.body).toHaveLength(100);
    expect((await answer(READ, { read: () => new Uint8Array(0) })).reply.body).toHaveLength(0);
  });

  test('to RELEASE is empty', async () => {
    const release = vi.fn();
    expect((await answer(RELEASE, { release })).reply).toEqual({ unique: UNIQUE, errno: 0, body: Buffer.alloc(0) });
    expect(release).toHaveBeenCalledWith(7);
  });

  test.each([
    ['an error of ours', new ImgfuseError('busy', 'too many'), 16],
    ['a bug', new TypeError('a bug'), 5],
  ])('to %s is its errno, and the caller is told', async (_name, error, errno) => {
    const { reply, failure } = await answer(OPEN, { open: () => Promise.reject(error) });
    expect([reply.unique, reply.errno, failure]).toEqual([UNIQUE, errno, error]);
  });

  test('to anything else is an error', async () => {
    const lookup = requestMessage(OPCODES.FUSE_LOOKUP, [text('status.json')]);
    expect((await answer(lookup, {})).reply.errno).toBe(95);
  });
});
