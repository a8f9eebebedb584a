// Buffers that are used again: zeros whatever was in them, and never two users at a time.

import { expect, test } from 'vitest';
import { reusingSharedMemory } from '../../support/reused-memory.ts';

const GROWABLE = { maxByteLength: 65536 };

test('a buffer comes back cleared, to a request for the same size only', () => {
  const first = reusingSharedMemory(() => {
    const buffer = new SharedArrayBuffer(64);
    new Uint8Array(buffer).fill(7);
    return buffer;
  });
  reusingSharedMemory(() => {
    expect(new SharedArrayBuffer(128)).not.toBe(first);
    const again = new SharedArrayBuffer(64);
    expect(again).toBe(first);
    expect(again).toBeInstanceOf(SharedArrayBuffer);
    expect(new Uint8Array(again)).toEqual(new Uint8Array(64));
    expect(new SharedArrayBuffer(64)).not.toBe(first);
  });
});

test('one that has grown is long enough, and zeros all over', () => {
  const first = reusingSharedMemory(() => {
    const buffer = new SharedArrayBuffer(16, GROWABLE);
    buffer.grow(4096);
    new Uint8Array(buffer).fill(7);
    return buffer;
  });
  reusingSharedMemory(() => {
    const again = new SharedArrayBuffer(8192, GROWABLE);
    expect(again).toBe(first);
    expect(again.byteLength).toBe(8192);
    expect(new Uint8Array(again).every((byte) => byte === 0)).toBe(true);
  });
});

test('what a nested call or nobody has taken stays with those that have it', () => {
  const outside = new SharedArrayBuffer(256);
  reusingSharedMemory(() => {
    const outer = new SharedArrayBuffer(256);
    const inner = reusingSharedMemory(() => new SharedArrayBuffer(256));
    expect(inner).not.toBe(outer);
    expect(new SharedArrayBuffer(256)).toBe(inner);
    expect(new SharedArrayBuffer(256)).not.toBe(outer);
  });
  reusingSharedMemory(() => {
    for (let n = 0; n < 9; n++) expect(new SharedArrayBuffer(256)).not.toBe(outside);
  });
});
