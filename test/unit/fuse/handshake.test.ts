// INIT: what is read from the message of the kernel, and the exact bytes of the answer.

import { describe, expect, test } from 'vitest';
import { serveInit } from '../../../src/fuse/handshake.ts';
import { negotiate } from '../../../src/fuse/protocol.ts';
import {
  encode,
  OPCODES,
  type ReplyMessage,
  requestMessage,
  ScriptedChannel,
  UNIQUE,
  u16,
  u32,
} from '../../support/fuse-messages.ts';

const ALL = 0xffffffff;
const OFFER = { major: 7, minor: 45, maxReadahead: 131072, flags: ALL, flags2: ALL };

function initMessage(minor: number, flags: number, flags2: number): Buffer {
  const fields = [u32(7), u32(minor), u32(131072), u32(flags), u32(flags2), Buffer.alloc(44)];
  return requestMessage(OPCODES.FUSE_INIT, fields, { nodeid: 0 });
}

function answerTo(message: Buffer, timeout = 0): ReplyMessage {
  const channel = new ScriptedChannel([message]);
  serveInit(channel, 4096, timeout);
  expect(channel.replies).toHaveLength(1);
  return channel.replies[0]!;
}

test('the answer has the bytes of fuse_init_out, and the unique of the request', () => {
  const { flags } = negotiate(OFFER, 4096);
  expect(answerTo(initMessage(45, ALL, 0x10))).toEqual({
    errno: 0,
    unique: UNIQUE,
    body: encode(
      ...[u32(7), u32(40), u32(131072), u32(flags >>> 0), u16(64), u16(48), u32(1 << 20), u32(1)],
      ...[u16(256), u16(0), u32(1 << 4), Buffer.alloc(28)],
    ),
  });
});

test('a time for requests stands in the answer and in its flags', () => {
  const { body } = answerTo(initMessage(45, ALL, ALL), 65535);
  expect([body.readUInt32LE(32) & (1 << 10), body.readUInt16LE(40)]).toEqual([1 << 10, 65535]);
});

describe('the message of the kernel', () => {
  const agreed = (message: Buffer) => serveInit(new ScriptedChannel([message]), 4096);

  test('is read with both words of flags', () => {
    expect(agreed(initMessage(45, ALL, 0x10))).toEqual(negotiate({ ...OFFER, flags2: 0x10 }, 4096));
    expect(agreed(initMessage(45, ALL, ALL))).toEqual(negotiate(OFFER, 4096));
  });

  test('is taken in the short form of kernels before FUSE_INIT_EXT', () => {
    const message = requestMessage(OPCODES.FUSE_INIT, [u32(7), u32(31), u32(4096), u32(1)]);
    const offer = { major: 7, minor: 31, maxReadahead: 4096, flags: 1, flags2: 0 };
    expect(agreed(message)).toEqual(negotiate(offer, 4096));
  });

  test.each([
    ['another opcode', requestMessage(OPCODES.FUSE_GETATTR, [Buffer.alloc(16)])],
    ['a short body', requestMessage(OPCODES.FUSE_INIT, [Buffer.alloc(15)])],
    ['a wrong length', requestMessage(OPCODES.FUSE_INIT, [Buffer.alloc(64)], { claimedLength: 40 })],
  ])('is refused with %s, and answered', (_what, message) => {
    const channel = new ScriptedChannel([message]);
    expect(() => serveInit(channel, 4096)).toThrow('not INIT');
    expect(channel.replies).toMatchObject([{ errno: 71, unique: UNIQUE }]);
  });

  test('of a kernel that cannot be served is answered, so that the mount does not wait for ever', () => {
    const channel = new ScriptedChannel([initMessage(8, 0, 0)]);
    expect(() => serveInit(channel, 4096)).toThrow('FUSE 7.8');
    expect(channel.replies).toMatchObject([{ errno: 71, unique: UNIQUE }]);
  });
});

test('an unmount before INIT is an error, not a hang', () => {
  expect(() => serveInit(new ScriptedChannel([]), 4096)).toThrow('before it was ready');
});
