// Pages that a serving thread has the kernel drop: at once, or before a reply that the main thread sends. The kernel is a file that
// keeps the notifications.

import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ERRNO, ImgfuseError } from '../../../src/errors/index.ts';
import type { Filesystem } from '../../../src/fuse/filesystem.ts';
import { answerAfterDrop } from '../../../src/fuse/invalidate.ts';
import { type LateDrop, ServedPages } from '../../../src/fuse/kernel-pages.ts';
import { negotiate } from '../../../src/fuse/protocol.ts';
import { FuseServer } from '../../../src/fuse/server.ts';
import {
  encode,
  i64,
  OPCODES,
  requestMessage,
  ScriptedChannel,
  UNIQUE,
  u32,
  u64,
} from '../../support/fuse-messages.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const WRITE = requestMessage(OPCODES.FUSE_WRITE, [
  ...[u64(7), u64(4096), u32(3), u32(0), u64(0), u32(0), u32(0)],
  Buffer.from('abc'),
]);
/** FUSE_NOTIFY_INVAL_INODE */
const INVAL_INODE = 2;

let folder: string;
let kernel: string;
let fd: number;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  kernel = join(folder, 'kernel');
  fd = openSync(kernel, 'a+');
});
afterEach(() => {
  closeSync(fd);
  removeTemporaryDirectory(folder);
});

function notification(node: number, offset: number, length: number): Buffer {
  return encode(u32(40), u32(INVAL_INODE), u64(0), u64(node), i64(offset), i64(length));
}

/** Serves one WRITE by a filesystem that finds these ranges changed. */
function serve(minor: number, ranges: readonly [number, number, number][], fails = false) {
  const offer = { major: 7, minor: 45, maxReadahead: 131072, flags: 0xffffffff, flags2: 0xffffffff };
  const protocol = { ...negotiate(offer, 4096), minor };
  const channel = new ScriptedChannel([WRITE, WRITE]);
  const drops: LateDrop[] = [];
  const pages = new ServedPages(fd, protocol, (drop) => drops.push(drop));
  let isFirst = true;
  const write = () => {
    if (isFirst) for (const range of ranges) pages.dropBeforeReply(...range);
    isFirst = false;
    if (fails) throw new ImgfuseError('no-space', 'full');
    return 3;
  };
  new FuseServer(channel, protocol, { write } as unknown as Filesystem, { pages }).serve();
  return { channel, drops };
}

test('the pages of a file that nobody has open are gone when the call returns', () => {
  new ServedPages(fd, negotiate({ major: 7, minor: 45, maxReadahead: 0, flags: 0, flags2: 0 }, 4096), () => {}).drop(9);
  expect(readFileSync(kernel)).toEqual(notification(9, 0, 0));
});

test.each([
  false,
  true,
])('a reply waits for the drop of what its request changed (it fails: %s), and no other does', async (fails) => {
  const { channel, drops } = serve(
    39,
    [
      [2, 100, 5000],
      [2, 9000, 9001],
      [3, 0, 10],
    ],
    fails,
  );
  expect(channel.replies, 'the second WRITE changed nothing else').toHaveLength(1);
  expect(drops).toHaveLength(1);
  expect(readFileSync(kernel).length, 'this thread has sent nothing').toBe(0);
  const late = new ScriptedChannel([]);
  expect(await answerAfterDrop(fd, drops[0]!, late)).toBeNull();
  expect(readFileSync(kernel)).toEqual(Buffer.concat([notification(2, 100, 8901), notification(3, 0, 10)]));
  expect(late.replies).toMatchObject([{ unique: UNIQUE, errno: fails ? 28 : 0 }]);
});

test('where the request itself may keep a page locked until its reply, the drop comes after it', async () => {
  const { channel, drops } = serve(38, [[2, 0, 10]]);
  expect(channel.replies).toHaveLength(2);
  expect(drops).toEqual([{ ranges: [{ node: 2, start: 0, end: 10 }], reply: null }]);
  expect(await answerAfterDrop(fd, drops[0]!, new ScriptedChannel([]))).toBeNull();
  expect(readFileSync(kernel)).toEqual(notification(2, 0, 10));
});

test('a reply is sent also if the kernel drops nothing, and what went wrong is told', async () => {
  const closed = openSync(kernel, 'r');
  const late = new ScriptedChannel([]);
  const { drops } = serve(39, [[2, 0, 10]]);
  expect(await answerAfterDrop(closed, drops[0]!, late)).toContain('does not drop what it has cached');
  closeSync(closed);
  expect(late.replies).toHaveLength(1);
  expect(() => new ServedPages(closed, { minor: 39 } as never, () => {}).drop(2)).toThrow(
    expect.objectContaining({ context: expect.objectContaining({ errno: ERRNO.EBADF }) }),
  );
});
