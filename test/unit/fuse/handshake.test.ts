// INIT: what is agreed with which kernel, and the exact bytes of the answer.

import { describe, expect, test } from 'vitest';
import { decodeInit, encodeInit, negotiate, serveInit } from '../../../src/fuse/handshake.ts';
import {
  encode,
  parseReply,
  requestMessage,
  ScriptedChannel,
  UNIQUE,
  u16,
  u32,
  u64,
} from '../../support/fuse-messages.ts';

const ALL = 0xffffffff;
const OFFER = { major: 7, minor: 45, maxReadahead: 131072, flags: ALL, flags2: ALL };

function initMessage(minor: number, flags: number, flags2: number): Buffer {
  return requestMessage(26, [u32(7), u32(minor), u32(131072), u32(flags), u32(flags2), Buffer.alloc(44)], {
    nodeid: 0,
  });
}

describe('negotiate', () => {
  test('a kernel that offers everything gets 1 MiB requests and never the write-back cache', () => {
    const protocol = negotiate(OFFER, 4096);
    expect(protocol).toMatchObject({ major: 7, minor: 40, maxWrite: 1 << 20, maxPages: 256, flags2: 1 << 4 });
    expect(protocol.flags & (1 << 16)).toBe(0);
    // ASYNC_READ, ATOMIC_O_TRUNC, EXPORT_SUPPORT, BIG_WRITES, READDIRPLUS (2), ASYNC_DIO, PARALLEL_DIROPS, ABORT_ERROR,
    // MAX_PAGES, EXPLICIT_INVAL_DATA, HANDLE_KILLPRIV_V2, INIT_EXT
    const bits = [0, 3, 4, 5, 13, 14, 15, 18, 21, 22, 25, 28, 30];
    expect(protocol.flags).toBe(bits.reduce((flags, bit) => flags | (1 << bit), 0));
  });

  test('nothing is asked for that the kernel does not offer', () => {
    const protocol = negotiate({ ...OFFER, minor: 31, flags: 1 << 0, flags2: 0 }, 4096);
    expect(protocol).toMatchObject({ minor: 31, flags: 1, flags2: 0, maxPages: 32, maxWrite: 131072 });
  });

  test('the second word of flags counts only where the kernel says that it has one', () => {
    expect(negotiate({ ...OFFER, flags: ALL & ~(1 << 30) }, 4096).flags2).toBe(0);
  });

  test('a page of 64 KiB leaves 16 pages, so that no request is larger than the buffers', () => {
    expect(negotiate(OFFER, 65536)).toMatchObject({ maxPages: 16, maxWrite: 1 << 20 });
  });

  test.each([
    [6, 45],
    [8, 0],
    [7, 22],
  ])('FUSE %d.%d is refused by number', (major, minor) => {
    expect(() => negotiate({ ...OFFER, major, minor }, 4096)).toThrow(`FUSE ${major}.${minor}`);
  });

  test('7.23 is still served', () => {
    expect(negotiate({ ...OFFER, minor: 23 }, 4096).minor).toBe(23);
  });
});

test('the answer has the bytes of fuse_init_out', () => {
  const protocol = negotiate(OFFER, 4096);
  const unique = encode(u64(UNIQUE));
  const reply = parseReply(Buffer.from(encodeInit(protocol, unique)));
  expect(reply.unique).toBe(UNIQUE);
  expect(reply.body).toEqual(
    encode(
      ...[u32(7), u32(40), u32(131072), u32(protocol.flags >>> 0), u16(64), u16(48), u32(1 << 20), u32(1)],
      ...[u16(256), u16(0), u32(1 << 4), Buffer.alloc(28)],
    ),
  );
});

describe('decodeInit', () => {
  test('reads both words of flags', () => {
    const message = initMessage(45, ALL, 0x10);
    expect(decodeInit(message, message.length)).toEqual({ ...OFFER, flags2: 0x10 });
  });

  test('takes the short form of kernels before FUSE_INIT_EXT', () => {
    const message = requestMessage(26, [u32(7), u32(31), u32(4096), u32(1)]);
    expect(decodeInit(message, message.length)).toEqual({
      major: 7,
      minor: 31,
      maxReadahead: 4096,
      flags: 1,
      flags2: 0,
    });
  });

  test.each([
    ['another opcode', requestMessage(3, [Buffer.alloc(16)])],
    ['a short body', requestMessage(26, [Buffer.alloc(15)])],
    ['a wrong length', requestMessage(26, [Buffer.alloc(64)], { claimedLength: 40 })],
  ])('refuses %s', (_what, message) => {
    expect(() => decodeInit(message, message.length)).toThrow('not INIT');
  });
});

test('a time for requests is asked for where the kernel offers it, and where it is wanted', () => {
  const unique = new Uint8Array(8);
  const fieldOf = (reply: Uint8Array): [number, number] => {
    const view = new DataView(reply.buffer, 16);
    return [view.getUint32(32, true) & (1 << 10), view.getUint16(40, true)];
  };
  expect(fieldOf(encodeInit(negotiate(OFFER, 4096, 65535), unique))).toEqual([1 << 10, 65535]);
  expect(fieldOf(encodeInit(negotiate(OFFER, 4096), unique))).toEqual([0, 0]);
  expect(fieldOf(encodeInit(negotiate({ ...OFFER, flags2: 1 << 4 }, 4096, 65535), unique))).toEqual([0, 0]);
});

describe('serveInit', () => {
  test('answers once and returns what was agreed', () => {
    const channel = new ScriptedChannel([initMessage(45, ALL, ALL)]);
    expect(serveInit(channel, 4096)).toEqual(negotiate(OFFER, 4096));
    expect(channel.replies).toMatchObject([{ errno: 0, unique: UNIQUE }]);
  });

  test('refuses a kernel that it cannot serve, so that the mount does not wait for ever', () => {
    const channel = new ScriptedChannel([initMessage(8, 0, 0)]);
    expect(() => serveInit(channel, 4096)).toThrow('FUSE 7.8');
    expect(channel.replies).toMatchObject([{ errno: 71, unique: UNIQUE }]);
  });

  test('an unmount before INIT is an error, not a hang', () => {
    expect(() => serveInit(new ScriptedChannel([]), 4096)).toThrow('before it was ready');
  });
});
