// CowBuffer: what reaches the host around the guest's bytes, and in how many writes.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { CowBuffer } from '../../../../src/format/mapped/cow-buffer.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const MIB = 1024 * 1024;
const HOST = 3 * MIB;

/** The byte that the disk held at an offset. */
function oldByte(offset: number): number {
  return (offset * 7 + (offset >> 9)) & 0x7f;
}

/** Writes `length` bytes 0xff of the guest, with `head` and `tail` bytes around them. @returns what the host got */
function write(head: number, length: number, tail: number) {
  const start = 5 * 4096;
  const file = new RecordingHostFile(new MemoryHostFile(new Uint8Array(HOST), '/image'));
  const reads: number[] = [];
  const old = {
    readReserved: (target: Uint8Array, at: number, bytes: number, offset: number) => {
      reads.push(bytes);
      for (let i = 0; i < bytes; i++) target[at + i] = oldByte(offset + i);
    },
  };
  const bytes = head + length + tail;
  const source = new Uint8Array(length + 3).fill(0xff, 3);
  const [offset, from] = [guestOffset(start + head), guestOffset(start)];
  new CowBuffer(old, file).writeAround(source, 3, length, offset, from, bytes, hostOffset(HOST));
  const got = new Uint8Array(bytes + 1);
  expect(file.read(got, 0, got.length, hostOffset(HOST))).toBe(bytes);
  const expected = Uint8Array.from({ length: bytes + 1 }, (_, i) => {
    if (i === bytes) return 0;
    return i >= head && i < head + length ? 0xff : oldByte(start + i);
  });
  expect(Buffer.compare(got, expected)).toBe(0);
  return { reads, writes: file.log.filter(({ operation }) => operation === 'write').length };
}

test('the host holds old content around the bytes of the guest, and nothing behind it', () => {
  const part = fc.nat({ max: 20_000 });
  fc.assert(
    fc.property(part, fc.integer({ min: 1, max: 20_000 }), part, (head, length, tail) => {
      const { reads, writes } = write(head, length, tail);
      expect(writes).toBe(1);
      expect(reads).toEqual([head, tail].filter((bytes) => bytes > 0));
    }),
    { numRuns: 50 },
  );
});

test('a cluster that is larger than the buffer is written piece by piece', () => {
  expect(write(MIB + 1, 10, MIB - 11)).toEqual({ reads: [MIB, 1, MIB - 11], writes: 4 });
  expect(write(0, 10, MIB)).toEqual({ reads: [MIB], writes: 2 });
});

test('whole clusters of the guest are not copied', () => {
  expect(write(0, 2 * MIB, 0)).toEqual({ reads: [], writes: 1 });
});
