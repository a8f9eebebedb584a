// The server against messages encoded by hand: what each opcode asks of the Filesystem and what it answers.

import { constants } from 'node:fs';
import { describe, expect, test, vi } from 'vitest';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { createCounters, readCounters } from '../../../src/fuse/counters.ts';
import type { AttributeChange, Attributes, Filesystem, OpenedFile } from '../../../src/fuse/filesystem.ts';
import { negotiate } from '../../../src/fuse/protocol.ts';
import { FuseServer, type ServerHooks } from '../../../src/fuse/server.ts';
import {
  type Envelope,
  encode,
  i64,
  OPCODES,
  parseReply,
  type ReplyMessage,
  requestMessage,
  ScriptedChannel,
  text,
  UNIQUE,
  u32,
  u64,
} from '../../support/fuse-messages.ts';

const FAR = 5 * 2 ** 40 + 4096;
const PROTOCOL = negotiate({ major: 7, minor: 45, maxReadahead: 131072, flags: 0xffffffff, flags2: 0xffffffff }, 4096);
const EIO = 5;

const FILE: Attributes = {
  ino: 2,
  generation: 0xfedcba98,
  entrySeconds: 60,
  size: FAR,
  allocatedBytes: 1025,
  atimeMs: 1_600_000_000_123.5,
  mtimeMs: -1500,
  ctimeMs: 0,
  mode: 0o100640,
  nlink: 1,
  uid: 12,
  gid: 34,
  blockSize: 65536,
};
const DIRECTORY: Attributes = { ...FILE, ino: 1, size: 0, mode: 0o040755, nlink: 2 };

function encodedAttributes(attributes: Attributes): Buffer {
  const seconds = (ms: number) => BigInt(Math.floor(ms / 1000));
  const nanoseconds = (ms: number) => Number((BigInt(ms * 2) * 500_000n) % 1_000_000_000n);
  const positive = (value: number) => (value < 0 ? value + 1e9 : value);
  return encode(
    u64(attributes.ino),
    u64(attributes.size),
    u64(Math.ceil(attributes.allocatedBytes / 512)),
    i64(seconds(attributes.atimeMs)),
    i64(seconds(attributes.mtimeMs)),
    i64(seconds(attributes.ctimeMs)),
    u32(positive(nanoseconds(attributes.atimeMs))),
    u32(positive(nanoseconds(attributes.mtimeMs))),
    u32(positive(nanoseconds(attributes.ctimeMs))),
    u32(attributes.mode),
    u32(attributes.nlink),
    u32(attributes.uid),
    u32(attributes.gid),
    u32(0),
    u32(attributes.blockSize),
    u32(0),
  );
}

function encodedEntry(attributes: Attributes): Buffer {
  return encode(
    u64(attributes.ino),
    u64(attributes.generation),
    u64(60),
    u64(0),
    u32(0),
    u32(0),
    encodedAttributes(attributes),
  );
}

function encodedDirent(name: string, ino: number, next: number, type: number): Buffer {
  const record = encode(u64(ino), u64(next), u32(name.length), u32(type), Buffer.from(name));
  return Buffer.concat([record, Buffer.alloc((8 - (record.length % 8)) % 8)]);
}

/** Fails the test where a method is called that the scenario does not provide. */
function filesystemWith(methods: Partial<Filesystem>): Filesystem {
  return new Proxy(methods as Filesystem, {
    get(target, name) {
      const method = Reflect.get(target, name);
      if (method === undefined) throw new Error(`${String(name)} was not expected`);
      return method;
    },
  });
}

function serve(messages: readonly Buffer[], methods: Partial<Filesystem> = {}, hooks: ServerHooks = {}) {
  const channel = new ScriptedChannel(messages);
  const end = new FuseServer(channel, PROTOCOL, filesystemWith(methods), hooks).serve();
  return { replies: channel.replies, end };
}

function answerTo(
  opcode: number,
  fields: Parameters<typeof requestMessage>[1],
  methods: Partial<Filesystem>,
  envelope: Envelope = {},
): ReplyMessage {
  const { replies } = serve([requestMessage(opcode, fields, envelope)], methods);
  expect(replies).toHaveLength(1);
  return replies[0]!;
}

describe('attributes', () => {
  test('GETATTR answers fuse_attr_out with the unique of the request, bit for bit', () => {
    const reply = answerTo(OPCODES.FUSE_GETATTR, [u32(0), u32(0), u64(0)], { getattr: () => FILE });
    expect(reply).toEqual({ unique: UNIQUE, errno: 0, body: encode(u64(0), u32(0), u32(0), encodedAttributes(FILE)) });
  });

  test('LOOKUP answers fuse_entry_out', () => {
    const lookup = vi.fn(() => FILE);
    const reply = answerTo(OPCODES.FUSE_LOOKUP, [text('disk.räw')], { lookup }, { nodeid: 1 });
    expect(lookup).toHaveBeenCalledWith(1, 'disk.räw');
    expect(reply.body).toEqual(encodedEntry(FILE));
  });

  test('LOOKUP of "." is the node itself and of ".." in the root is the root, as exporting over NFS needs', () => {
    const getattr = vi.fn((node: number) => ({ ...FILE, ino: node }));
    expect(answerTo(OPCODES.FUSE_LOOKUP, [text('.')], { getattr }, { nodeid: 2 }).body).toEqual(encodedEntry(FILE));
    expect(answerTo(OPCODES.FUSE_LOOKUP, [text('..')], { getattr }, { nodeid: 1 }).errno).toBe(0);
    expect(getattr.mock.calls).toEqual([[2], [1]]);
  });

  function setattr(valid: number, values: { size?: bigint; mode?: number; seconds?: bigint } = {}) {
    const calls: AttributeChange[] = [];
    let given: number | undefined;
    const reply = answerTo(
      4,
      [
        ...[u32(valid), u32(0), u64(9), u64(values.size ?? 0n), u64(0)],
        ...[i64(values.seconds ?? 0n), i64(values.seconds ?? 0n), u64(0)],
        ...[u32(250_000_000), u32(500_000_000), u32(0)],
        ...[u32(values.mode ?? 0), u32(0), u32(77), u32(88), u32(0)],
      ],
      {
        setattr: (_node, change, handle) => {
          calls.push(change);
          given = handle;
          return FILE;
        },
      },
    );
    return { reply, change: calls[0], handle: given };
  }

  test('SETATTR names the handle of ftruncate, and no handle for truncate', () => {
    expect(setattr((1 << 3) | (1 << 6)).handle).toBe(9);
    expect(setattr(1 << 3).handle).toBe(0);
  });

  test('SETATTR passes on exactly the members that are valid', () => {
    expect(setattr(1 << 3, { size: BigInt(FAR) }).change).toEqual({ size: FAR });
    expect(setattr((1 << 1) | (1 << 2)).change).toEqual({ uid: 77, gid: 88 });
    expect(setattr((1 << 4) | (1 << 5), { seconds: -2n }).change).toEqual({ atimeMs: -1750, mtimeMs: -1500 });
    expect(setattr(0).change).toEqual({});
  });

  test('SETATTR to the present time takes the clock, not the numbers in the request', () => {
    const before = Date.now();
    const change = setattr((1 << 4) | (1 << 5) | (1 << 7) | (1 << 8)).change;
    expect(change?.atimeMs).toBeGreaterThanOrEqual(before);
    expect(change?.mtimeMs).toBeGreaterThanOrEqual(before);
  });

  test('SETATTR never keeps set-user-id and set-group-id bits', () => {
    expect(setattr(1, { mode: 0o106755 }).change).toEqual({ mode: 0o100755 });
  });

  test('a size above 2^53 is EFBIG and never reaches the filesystem', () => {
    const { reply, change } = setattr(1 << 3, { size: 2n ** 53n });
    expect(reply.errno).toBe(27);
    expect(change).toBeUndefined();
    expect(setattr(1 << 3, { size: 2n ** 53n - 1n }).change).toEqual({ size: 2 ** 53 - 1 });
  });
});

describe('data', () => {
  const readFields = (offset: number | bigint, size: number) => [
    ...[u64(5), u64(offset), u32(size), u32(0), u64(2n ** 64n - 1n), u32(0), u32(0)],
  ];
  const writeFields = (offset: number | bigint, data: Uint8Array, size = data.length, flags = 0) => [
    ...[u64(5), u64(offset), u32(size), u32(0), u64(2n ** 64n - 1n), u32(flags), u32(0), data],
  ];

  test('WRITE of a page of a mapping names no handle, because the kernel takes any that can write', () => {
    const write = vi.fn(() => 3);
    const fields = (flags: number) => [
      ...[u64(5), u64(0), u32(3), u32(flags), u64(0), u32(0), u32(0), Uint8Array.of(1, 2, 3)],
    ];
    answerTo(OPCODES.FUSE_WRITE, fields(1), { write });
    answerTo(OPCODES.FUSE_WRITE, fields(0), { write });
    expect(write.mock.calls.map((call: unknown[]) => call[1])).toEqual([0, 5]);
  });

  test('WRITE that names a lock owner went past the pages of the kernel', () => {
    const write = vi.fn(() => 3);
    for (const flags of [0, 2, 4])
      answerTo(
        OPCODES.FUSE_WRITE,
        [u64(5), u64(0), u32(3), u32(flags), u64(9), u32(0), u32(0), Uint8Array.of(1, 2, 3)],
        { write },
      );
    expect(write.mock.calls.map((call: unknown[]) => call[6])).toEqual([false, true, false]);
  });

  test('READ lets the filesystem read into the reply behind the header', () => {
    const read: Filesystem['read'] = (node, handle, target, targetOffset, length, offset) => {
      expect([node, handle, targetOffset, length, offset]).toEqual([2, 5, 16, 4096, FAR]);
      target.fill(0x5a, targetOffset, targetOffset + 100);
      return 100;
    };
    expect(answerTo(OPCODES.FUSE_READ, readFields(FAR, 4096), { read }).body).toEqual(Buffer.alloc(100, 0x5a));
  });

  test('READ at the largest size is answered whole', () => {
    const reply = answerTo(OPCODES.FUSE_READ, readFields(0, 1 << 20), { read: (_n, _h, _t, _o, length) => length });
    expect(reply.body.length).toBe(1 << 20);
  });

  test('READ of more than was agreed is EIO', () => {
    expect(answerTo(OPCODES.FUSE_READ, readFields(0, (1 << 20) + 8192), {}).errno).toBe(EIO);
  });

  test('READ beyond every possible file is the end of the file', () => {
    expect(answerTo(OPCODES.FUSE_READ, readFields(2n ** 62n, 4096), {})).toMatchObject({
      errno: 0,
      body: Buffer.alloc(0),
    });
  });

  test('WRITE hands over the bytes in the receive buffer', () => {
    const data = Buffer.from('guest data');
    const write: Filesystem['write'] = (node, handle, source, sourceOffset, length, offset) => {
      expect([node, handle, length, offset]).toEqual([2, 5, 10, FAR]);
      expect(Buffer.from(source.slice(sourceOffset, sourceOffset + length))).toEqual(data);
      return 7;
    };
    expect(answerTo(OPCODES.FUSE_WRITE, writeFields(FAR, data), { write }).body).toEqual(encode(u32(7), u32(0)));
  });

  test.each([
    ['O_DSYNC', constants.O_DSYNC, 1],
    ['O_SYNC', constants.O_SYNC, 1],
    ['O_DIRECT', constants.O_DIRECT, 0],
  ])('WRITE with %s is durable when it is answered, if that was asked for', (_name, flags, syncs) => {
    const calls: string[] = [];
    const write: Filesystem['write'] = (_node, _handle, _source, _offset, length) => {
      calls.push('write');
      return length;
    };
    const fsync: Filesystem['fsync'] = (node, handle) => calls.push(`fsync ${node} ${handle}`);
    const fields = writeFields(0, Buffer.alloc(4096), 4096, constants.O_RDWR | flags);
    expect(answerTo(OPCODES.FUSE_WRITE, fields, { write, fsync }).errno).toBe(0);
    expect(calls).toEqual(['write', 'fsync 2 5'].slice(0, 1 + syncs));
    const failing = () => {
      throw new ImgfuseError('io', 'no sync');
    };
    expect(answerTo(OPCODES.FUSE_WRITE, fields, { write, fsync: failing }).errno).toBe(syncs === 0 ? 0 : EIO);
  });

  test('WRITE of the largest size fits the receive buffer', () => {
    const reply = answerTo(OPCODES.FUSE_WRITE, writeFields(0, Buffer.alloc(1 << 20)), {
      write: (_n, _h, _s, _o, length) => length,
    });
    expect(reply.body.readUInt32LE(0)).toBe(1 << 20);
  });

  test('WRITE with fewer or more bytes than its size is EIO', () => {
    expect(answerTo(OPCODES.FUSE_WRITE, writeFields(0, Buffer.alloc(10), 11), {}).errno).toBe(EIO);
    expect(answerTo(OPCODES.FUSE_WRITE, writeFields(0, Buffer.alloc(10), 9), {}).errno).toBe(EIO);
  });

  test('WRITE above 2^53 is EFBIG', () => {
    expect(answerTo(OPCODES.FUSE_WRITE, writeFields(2n ** 53n - 4n, Buffer.alloc(10)), {}).errno).toBe(27);
  });

  test('FALLOCATE passes mode, offset and length; sums above 2^53 are EFBIG', () => {
    const fallocate = vi.fn();
    expect(
      answerTo(OPCODES.FUSE_FALLOCATE, [u64(5), u64(FAR), u64(2 ** 33), u32(3), u32(0)], { fallocate }).errno,
    ).toBe(0);
    expect(fallocate).toHaveBeenCalledWith(2, 5, 3, FAR, 2 ** 33);
    expect(answerTo(OPCODES.FUSE_FALLOCATE, [u64(5), u64(2n ** 53n - 1n), u64(1), u32(3), u32(0)], {}).errno).toBe(27);
  });

  test('LSEEK answers the offset; SEEK_SET never reaches the filesystem', () => {
    const lseek = () => FAR;
    expect(answerTo(OPCODES.FUSE_LSEEK, [u64(5), u64(3), u32(4), u32(0)], { lseek }).body).toEqual(encode(u64(FAR)));
    expect(answerTo(OPCODES.FUSE_LSEEK, [u64(5), u64(3), u32(0), u32(0)], {}).errno).toBe(22);
    expect(answerTo(OPCODES.FUSE_LSEEK, [u64(5), u64(2n ** 63n), u32(3), u32(0)], {}).errno).toBe(6);
  });

  test('a handle that we cannot have given out is EBADF', () => {
    const fsync = vi.fn();
    expect(answerTo(OPCODES.FUSE_FSYNC, [u64(2n ** 60n), u32(0), u32(0)], { fsync }).errno).toBe(9);
    expect(fsync).not.toHaveBeenCalled();
  });
});

describe('files and directories', () => {
  const O_DIRECT = process.arch === 'arm64' ? 0o200000 : 0o40000;
  const O_TRUNC = 0o1000;

  /** The flags of the answer to an OPEN with `flags`. */
  function opened(flags: number, pages: OpenedFile['pages'], minor = 39): number {
    const methods = filesystemWith({ open: () => ({ handle: 11, pages }) });
    const channel = new ScriptedChannel([requestMessage(OPCODES.FUSE_OPEN, [u32(flags), u32(0)])]);
    new FuseServer(channel, { ...PROTOCOL, minor }, methods).serve();
    const [reply] = channel.replies;
    expect([reply!.errno, reply!.body.readBigUInt64LE(0)]).toEqual([0, 11n]);
    return reply!.body.readUInt32LE(8);
  }
  const [DIRECT_IO, KEEP_CACHE, PARALLEL_DIRECT_WRITES] = [1, 2, 64];

  test('OPEN for direct I/O bypasses the page cache and writes in parallel; any other keeps the cache', () => {
    expect(opened(O_DIRECT | 2, 'keep')).toBe(KEEP_CACHE | DIRECT_IO | PARALLEL_DIRECT_WRITES);
    expect(opened(2, 'keep')).toBe(KEEP_CACHE);
  });

  test('OPEN never drops the pages that others may be writing through, whatever it is itself', () => {
    for (const minor of [38, 39]) {
      for (const pages of ['keep', 'bypass'] as const) {
        for (const flags of [0, 2, O_DIRECT, O_DIRECT | 2, O_TRUNC | 1])
          expect(opened(flags, pages, minor) & KEEP_CACHE, `${pages} ${flags}`).toBe(KEEP_CACHE);
      }
    }
  });

  test('OPEN of bytes that are written under another name bypasses the page cache, in every version of the protocol', () => {
    for (const minor of [38, 39]) expect(opened(0, 'bypass', minor)).toBe(KEEP_CACHE | DIRECT_IO);
    expect(opened(O_DIRECT, 'bypass')).toBe(KEEP_CACHE | DIRECT_IO | PARALLEL_DIRECT_WRITES);
  });

  test('OPEN with O_TRUNC bypasses the page cache, because it changes bytes that nobody writes', () => {
    expect(opened(O_TRUNC | 1, 'keep')).toBe(KEEP_CACHE | DIRECT_IO);
    expect(opened(O_TRUNC | O_DIRECT | 1, 'keep')).toBe(KEEP_CACHE | DIRECT_IO | PARALLEL_DIRECT_WRITES);
  });

  test('OPEN never bypasses the page cache of a kernel whose direct writes leave the pages of others untrue', () => {
    for (const flags of [O_DIRECT | 2, O_DIRECT]) expect(opened(flags, 'keep', 38)).toBe(KEEP_CACHE);
    expect(opened(O_TRUNC | O_DIRECT | 2, 'keep', 38)).toBe(KEEP_CACHE);
  });

  test.each([
    ['RELEASE', OPCODES.FUSE_RELEASE, 'release'],
    ['FLUSH', OPCODES.FUSE_FLUSH, 'flush'],
  ] as const)('%s names node and handle', (_name, opcode, method) => {
    const called = vi.fn();
    expect(answerTo(opcode, [u64(5), u32(0), u32(0), u64(0)], { [method]: called }).errno).toBe(0);
    expect(called).toHaveBeenCalledWith(2, 5);
  });

  test('FSYNC names node and handle', () => {
    const fsync = vi.fn();
    expect(answerTo(OPCODES.FUSE_FSYNC, [u64(5), u32(1), u32(0)], { fsync }).errno).toBe(0);
    expect(fsync).toHaveBeenCalledWith(2, 5);
  });

  const readdir = () => [{ name: 'disk.raw', attributes: FILE }];
  const readFields = (offset: number, size: number) => [
    ...[u64(0), u64(offset), u32(size), u32(0), u64(0), u32(0), u32(0)],
  ];

  test('READDIR lists ".", ".." and the entries, and goes on behind the offset', () => {
    const all = [encodedDirent('.', 1, 1, 4), encodedDirent('..', 1, 2, 4), encodedDirent('disk.raw', 2, 3, 8)];
    const from = (offset: number, size = 4096) =>
      answerTo(OPCODES.FUSE_READDIR, readFields(offset, size), { readdir }, { nodeid: 1 }).body;
    expect(from(0)).toEqual(Buffer.concat(all));
    expect(from(2)).toEqual(all[2]);
    expect(from(3).length).toBe(0);
    expect(from(0, 32 + 32 + 31)).toEqual(Buffer.concat(all.slice(0, 2)));
    expect(from(0, 31).length).toBe(0);
  });

  test('READDIRPLUS puts an entry before each record, empty for "." and ".."', () => {
    const { body } = answerTo(OPCODES.FUSE_READDIRPLUS, readFields(1, 4096), { readdir }, { nodeid: 1 });
    const dots = Buffer.concat([Buffer.alloc(128), encodedDirent('..', 1, 2, 4)]);
    expect(body).toEqual(Buffer.concat([dots, encodedEntry(FILE), encodedDirent('disk.raw', 2, 3, 8)]));
  });

  test('STATFS answers fuse_statfs_out', () => {
    const statfs = () => ({
      ...{ blockSize: 65536, blocks: 2 ** 40, blocksFree: 3, blocksAvailable: 2 },
      ...{ files: 9, filesFree: 1, nameMax: 255 },
    });
    const { body } = answerTo(OPCODES.FUSE_STATFS, [], { statfs }, { nodeid: 1 });
    expect(body).toEqual(
      encode(
        ...[u64(2 ** 40), u64(3), u64(2), u64(9), u64(1), u32(65536), u32(255), u32(65536), u32(0)],
        Buffer.alloc(24),
      ),
    );
  });

  test('ACCESS passes the mask and who asks', () => {
    const access = vi.fn();
    answerTo(OPCODES.FUSE_ACCESS, [u32(4), u32(0)], { access }, { uid: 5, gid: 6 });
    expect(access).toHaveBeenCalledWith(2, 4, 5, 6);
  });

  test('extended attributes: size 0 asks for the size, too small is ERANGE', () => {
    const getxattr = () => Buffer.from('value');
    const listxattr = () => ['user.a', 'user.b'];
    const get = (size: number) => answerTo(OPCODES.FUSE_GETXATTR, [u32(size), u32(0), text('user.a')], { getxattr });
    const list = (size: number) => answerTo(OPCODES.FUSE_LISTXATTR, [u32(size), u32(0)], { listxattr });
    expect(get(0).body).toEqual(encode(u32(5), u32(0)));
    expect(get(5).body.toString()).toBe('value');
    expect(get(4).errno).toBe(34);
    expect(list(0).body).toEqual(encode(u32(14), u32(0)));
    expect(list(14).body.toString()).toBe('user.a\0user.b\0');
    expect(list(13).errno).toBe(34);
  });
});

describe('what is not answered by the filesystem', () => {
  test('FORGET, BATCH_FORGET and INTERRUPT have no reply, malformed or not', () => {
    const messages = [
      requestMessage(OPCODES.FUSE_FORGET, [u64(1)]),
      requestMessage(OPCODES.FUSE_BATCH_FORGET, [u32(1), u32(0), u64(2), u64(1)]),
      requestMessage(OPCODES.FUSE_INTERRUPT, [u64(UNIQUE)]),
      requestMessage(OPCODES.FUSE_FORGET, []),
      requestMessage(OPCODES.FUSE_INTERRUPT, [u64(1), u64(1)]),
    ];
    expect(serve(messages).replies).toEqual([]);
  });

  test('FSYNCDIR, RELEASEDIR and DESTROY succeed', () => {
    expect(answerTo(OPCODES.FUSE_FSYNCDIR, [u64(0), u32(0), u32(0)], {}).errno).toBe(0);
    expect(answerTo(OPCODES.FUSE_RELEASEDIR, [u64(0), u32(0), u32(0), u64(0)], {}).errno).toBe(0);
    expect(answerTo(OPCODES.FUSE_DESTROY, [], {}).errno).toBe(0);
  });

  test.each([
    'FUSE_SYMLINK',
    'FUSE_MKNOD',
    'FUSE_MKDIR',
    'FUSE_UNLINK',
    'FUSE_RMDIR',
    'FUSE_RENAME',
    'FUSE_LINK',
    'FUSE_CREATE',
    'FUSE_RENAME2',
  ] as const)('%s, which changes names, names the directory and is refused', (name) => {
    const changeNames = vi.fn((): never => {
      throw new ImgfuseError('usage', 'the names are fixed', { errno: 1 });
    });
    const message = [u64(0), u64(0), text('one'), text('two')];
    expect(answerTo(OPCODES[name], message, { changeNames }, { nodeid: 1 }).errno).toBe(1);
    expect(changeNames).toHaveBeenCalledWith(1);
  });

  test.each([
    'FUSE_READLINK',
    'FUSE_SETXATTR',
    'FUSE_REMOVEXATTR',
    'FUSE_GETLK',
    'FUSE_SETLK',
    'FUSE_SETLKW',
    'FUSE_BMAP',
    'FUSE_IOCTL',
    'FUSE_POLL',
    'FUSE_COPY_FILE_RANGE',
    'FUSE_SYNCFS',
    'FUSE_TMPFILE',
    'FUSE_STATX',
  ] as const)('%s is ENOSYS', (name) => {
    expect(answerTo(OPCODES[name], [u64(0), u64(0)], {}).errno).toBe(38);
  });

  test.each([63, 64, 4096, 2 ** 31])('opcode %d, which has no name, is ENOSYS', (opcode) => {
    expect(answerTo(opcode, [u64(0), u64(0)], {}).errno).toBe(38);
  });
});

describe('malformed messages', () => {
  const bodySizes: ReadonlyMap<keyof typeof OPCODES, number> = new Map([
    ['FUSE_GETATTR', 16],
    ['FUSE_SETATTR', 88],
    ['FUSE_OPEN', 8],
    ['FUSE_READ', 40],
    ['FUSE_WRITE', 40],
    ['FUSE_RELEASE', 24],
    ['FUSE_FSYNC', 16],
    ['FUSE_GETXATTR', 8],
    ['FUSE_LISTXATTR', 8],
    ['FUSE_FLUSH', 24],
    ['FUSE_OPENDIR', 8],
    ['FUSE_READDIR', 40],
    ['FUSE_RELEASEDIR', 24],
    ['FUSE_FSYNCDIR', 16],
    ['FUSE_ACCESS', 8],
    ['FUSE_FALLOCATE', 32],
    ['FUSE_READDIRPLUS', 40],
    ['FUSE_LSEEK', 24],
  ]);

  test.each([...bodySizes])('%s with a body below %d bytes is EIO and reaches nobody', (name, size) => {
    for (const short of [0, 1, size - 1]) {
      const onError = vi.fn();
      const { replies } = serve([requestMessage(OPCODES[name], [Buffer.alloc(short)])], {}, { onError });
      expect(replies).toMatchObject([{ errno: EIO, unique: UNIQUE }]);
      expect(onError).toHaveBeenCalledOnce();
    }
  });

  test.each(
    [...bodySizes].filter(([name]) => name !== 'FUSE_WRITE' && name !== 'FUSE_GETXATTR'),
  )('%s with one byte more than its %d is EIO', (name, size) => {
    expect(answerTo(OPCODES[name], [Buffer.alloc(size + 1)], {}).errno).toBe(EIO);
  });

  test('a header that claims another length than was received is EIO', () => {
    const fields = [u32(0), u32(0), u64(0)];
    expect(answerTo(OPCODES.FUSE_GETATTR, fields, {}, { claimedLength: 55 }).errno).toBe(EIO);
    expect(answerTo(OPCODES.FUSE_GETATTR, fields, {}, { claimedLength: 57 }).errno).toBe(EIO);
    expect(answerTo(OPCODES.FUSE_GETATTR, fields, {}, { claimedLength: 2 ** 32 - 1 }).errno).toBe(EIO);
  });

  test.each([1, 4, 8, 15])('a message of %d bytes is reported; it does not even say what to answer', (length) => {
    const onError = vi.fn();
    const { replies } = serve(
      [requestMessage(OPCODES.FUSE_GETATTR).subarray(0, length), requestMessage(OPCODES.FUSE_DESTROY)],
      {},
      { onError },
    );
    expect(replies).toMatchObject([{ errno: 0, unique: UNIQUE }]);
    expect(onError).toHaveBeenCalledOnce();
  });

  test.each([16, 39])('a message of %d bytes is EIO', (length) => {
    const { replies } = serve([
      requestMessage(OPCODES.FUSE_GETATTR).subarray(0, length),
      requestMessage(OPCODES.FUSE_DESTROY),
    ]);
    expect(replies).toMatchObject([{ errno: EIO, unique: UNIQUE }, { errno: 0 }]);
  });

  test.each([
    ['empty', Buffer.alloc(0)],
    ['only a NUL', Buffer.from('\0')],
    ['without NUL', Buffer.from('name')],
    ['with bytes behind the NUL', Buffer.from('na\0me\0')],
  ])('a name that is %s is EIO', (_what, name) => {
    expect(answerTo(OPCODES.FUSE_LOOKUP, [name], {}).errno).toBe(EIO);
  });

  test('a name of 1024 bytes is looked up and one of 1025 is ENAMETOOLONG', () => {
    const lookup = () => FILE;
    expect(answerTo(OPCODES.FUSE_LOOKUP, [text('a'.repeat(1024))], { lookup }).errno).toBe(0);
    expect(answerTo(OPCODES.FUSE_LOOKUP, [text('a'.repeat(1025))], { lookup }).errno).toBe(36);
  });

  test('random bytes never throw out of serve', () => {
    let state = 1;
    const random = () => {
      state = (state * 1103515245 + 12345) % 2 ** 31;
      return state / 2 ** 31;
    };
    const messages = Array.from({ length: 3000 }, () => {
      const body = Buffer.from(Array.from({ length: Math.floor(random() * 120) }, () => Math.floor(random() * 256)));
      return requestMessage(Math.floor(random() * 70), [body], { nodeid: Math.floor(random() * 4) });
    });
    const answered = () => 0;
    const methods = {
      ...{ lookup: () => FILE, getattr: () => FILE, setattr: () => FILE, readdir: () => [] },
      open: () => ({ handle: 0, pages: 'keep' as const }),
      ...{
        release: () => undefined,
        read: answered,
        write: answered,
        flush: answered,
        fsync: answered,
        access: answered,
      },
      ...{ fallocate: answered, lseek: answered, getxattr: () => Buffer.alloc(3), listxattr: () => [] },
      statfs: () => ({
        ...{ blockSize: 1, blocks: 1, blocksFree: 1 },
        blocksAvailable: 1,
        files: 1,
        filesFree: 1,
        nameMax: 1,
      }),
    };
    const { replies, end } = serve(messages, methods);
    expect(end).toBe('unmounted');
    const silent = new Set<number>([OPCODES.FUSE_FORGET, OPCODES.FUSE_INTERRUPT, OPCODES.FUSE_BATCH_FORGET]);
    expect(replies.length).toBe(messages.filter((message) => !silent.has(message.readUInt32LE(4))).length);
  });
});

describe('errors', () => {
  const getattr = [u32(0), u32(0), u64(0)];
  const throwing = (error: unknown): Partial<Filesystem> => ({
    getattr: () => {
      throw error;
    },
  });

  test.each([
    [new ImgfuseError('missing', 'gone'), 2, 0],
    [new ImgfuseError('no-space', 'full'), 28, 0],
    [new ImgfuseError('read-only', 'ro'), 30, 0],
    [new ImgfuseError('io', 'beyond', { errno: 6 }), 6, 0],
    [new ImgfuseError('io', 'broken'), 5, 1],
    [new ImgfuseError('corrupt', 'bad entry'), 5, 1],
    [new TypeError('a bug'), 5, 1],
    ['not even an error', 5, 1],
  ])('%s is answered with errno %d and reported %d times', (error, errno, reports) => {
    const onError = vi.fn();
    const { replies } = serve(
      [requestMessage(OPCODES.FUSE_GETATTR, getattr), requestMessage(OPCODES.FUSE_DESTROY)],
      throwing(error),
      { onError },
    );
    expect(replies.map((reply) => reply.errno)).toEqual([errno, 0]);
    expect(replies[0]!.body.length).toBe(0);
    expect(onError).toHaveBeenCalledTimes(reports);
    if (reports > 0) expect(onError).toHaveBeenCalledWith(error, 'GETATTR');
  });

  test('a filesystem that says it read more than the buffer holds is answered EIO', () => {
    const fields = [u64(5), u64(0), u32(4096), u32(0), u64(0), u32(0), u32(0)];
    expect(answerTo(OPCODES.FUSE_READ, fields, { read: () => 2 ** 22 }).errno).toBe(EIO);
  });

  test('a reply that the kernel refuses is replaced by EIO', () => {
    class Refusing extends ScriptedChannel {
      override send(source: Uint8Array, length: number): boolean {
        if (length > 16) throw new ImgfuseError('io', 'write of /dev/fuse failed', { errno: 22 });
        return super.send(source, length);
      }
    }
    const channel = new Refusing([requestMessage(OPCODES.FUSE_GETATTR, getattr)]);
    const onError = vi.fn();
    new FuseServer(channel, PROTOCOL, filesystemWith({ getattr: () => DIRECTORY }), { onError }).serve();
    expect(channel.replies).toMatchObject([{ errno: EIO, unique: UNIQUE }]);
    expect(onError).toHaveBeenCalledOnce();
  });
});

describe('the loop', () => {
  test('says how the connection ended', () => {
    const aborted = new ScriptedChannel([], 'aborted');
    expect(new FuseServer(aborted, PROTOCOL, filesystemWith({})).serve()).toBe('aborted');
    expect(serve([]).end).toBe('unmounted');
  });

  test('stops after the request during which it was told to', () => {
    let asked = 0;
    const shouldStop = () => {
      asked += 1;
      return asked === 2;
    };
    const { replies, end } = serve(
      Array.from({ length: 3 }, () => requestMessage(OPCODES.FUSE_DESTROY)),
      {},
      { shouldStop },
    );
    expect(end).toBe('stopped');
    expect(replies).toHaveLength(2);
  });

  test('counts requests by name, and by number what has no name', () => {
    const counters = createCounters();
    serve(
      [
        requestMessage(OPCODES.FUSE_DESTROY),
        requestMessage(OPCODES.FUSE_DESTROY),
        requestMessage(OPCODES.FUSE_STATX),
        requestMessage(60),
        requestMessage(5000),
      ],
      {},
      { counters },
    );
    expect(readCounters(counters)).toEqual({ DESTROY: 2, STATX: 1, 'opcode 60': 1 });
  });

  test('a count goes on above 2^32', () => {
    const counters = createCounters();
    new Int32Array(counters)[38] = -1;
    serve([requestMessage(OPCODES.FUSE_DESTROY), requestMessage(OPCODES.FUSE_DESTROY)], {}, { counters });
    expect(readCounters(counters)).toEqual({ DESTROY: 2 ** 32 + 1 });
  });
});

describe('a request for which the host has no space', () => {
  const full = (): never => {
    throw new ImgfuseError('no-space', 'the host is full', { path: '/i' });
  };
  const write = [u64(2), u64(0), u32(4), u32(0), u64(0), u32(0), u32(0), Buffer.from('abcd')];
  const message = requestMessage(OPCODES.FUSE_WRITE, write);

  test('is answered ENOSPC without the hook, and if the hook does not take it', () => {
    expect(serve([message], { write: full }).replies).toMatchObject([{ errno: 28 }]);
    expect(serve([message], { write: full }, { hold: () => false }).replies).toMatchObject([{ errno: 28 }]);
  });

  test('gets no reply if the hook takes it, which sees the whole message', () => {
    const taken: Buffer[] = [];
    const hold = (_: unknown, bytes: Uint8Array) => taken.push(Buffer.from(bytes)) > 0;
    expect(serve([message], { write: full }, { hold }).replies).toEqual([]);
    expect(taken).toEqual([message]);
  });

  test('is repeated on its own channel, until it is answered', () => {
    let isFull = true;
    const methods = filesystemWith({ write: () => (isFull ? full() : 4) });
    const server = new FuseServer(new ScriptedChannel([]), PROTOCOL, methods, { hold: () => true });
    const channel = new ScriptedChannel([]);
    expect([server.repeat(message, channel), channel.replies]).toEqual([false, []]);
    isFull = false;
    expect(server.repeat(message, channel)).toBe(true);
    server.refuse(message, channel, 4);
    expect(channel.replies).toMatchObject([
      { unique: UNIQUE, errno: 0 },
      { unique: UNIQUE, errno: 4 },
    ]);
  });

  test('is no RELEASE, which counts a handle, and nothing that failed for another reason', () => {
    const hold = vi.fn(() => true);
    const release = [u64(2), u32(0), u32(0), u64(0)];
    serve([requestMessage(OPCODES.FUSE_RELEASE, release)], { release: full }, { hold });
    const limit = (): never => {
      throw new ImgfuseError('limit', 'the file may not grow', { errno: 27 });
    };
    expect(serve([message], { write: limit }, { hold }).replies).toMatchObject([{ errno: 27 }]);
    expect(hold).not.toHaveBeenCalled();
  });
});

test('the naive decoder refuses a reply whose header lies', () => {
  expect(() => parseReply(encode(u32(17), u32(0), u64(1)))).toThrow();
});
