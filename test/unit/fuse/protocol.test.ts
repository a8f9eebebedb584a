// What is agreed with which kernel.

import { describe, expect, test } from 'vitest';
import { negotiate, type Protocol } from '../../../src/fuse/protocol.ts';

const ALL = 0xffffffff;
const OFFER = { major: 7, minor: 45, maxReadahead: 131072, flags: ALL, flags2: ALL };

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

test('a time for requests is asked for where the kernel offers it, and where it is wanted', () => {
  const fieldsOf = ({ flags2, requestTimeout }: Protocol): [number, number] => [flags2 & (1 << 10), requestTimeout];
  expect(fieldsOf(negotiate(OFFER, 4096, 65535))).toEqual([1 << 10, 65535]);
  expect(fieldsOf(negotiate(OFFER, 4096))).toEqual([0, 0]);
  expect(fieldsOf(negotiate({ ...OFFER, flags2: 1 << 4 }, 4096, 65535))).toEqual([0, 0]);
});
