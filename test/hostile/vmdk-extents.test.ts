// Extents with random damage to headers, directories and tables: whatever is wrong is said with an error of imgfuse, a check without
// repair changes nothing, a repair of all leaves nothing to repair, and what opens for writing reads what was written.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { cowd } from '../../src/format/vmdk/cowd/index.ts';
import type { Extent, ExtentKind } from '../../src/format/vmdk/extent.ts';
import { sesparse } from '../../src/format/vmdk/sesparse/index.ts';
import { sparse } from '../../src/format/vmdk/sparse/index.ts';
import { stream } from '../../src/format/vmdk/stream/index.ts';
import { checkExtent, isSame, openExtent } from '../support/extents.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { cowdBytes, NONE, seSparseBytes, sparseBytes, streamBytes, ZERO } from '../support/vmdk-bytes.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
/** A damaged capacity may be petabytes: so much of a disk is read. */
const READ_BYTES = 2 * 1024 * 1024;

const IMAGES: Readonly<Record<string, readonly [ExtentKind, Buffer]>> = {
  'a sparse extent': [sparse, sparseBytes({ entries: [0, 1, NONE, 3, ZERO, 2], capacity: 300 * 8, zeroGrains: true })],
  'an unclean sparse extent': [sparse, sparseBytes({ entries: [2, 1, 0], capacity: 200 * 8, unclean: true })],
  'a COWD extent': [cowd, cowdBytes({ entries: [1, NONE, 0, 2], capacity: 9000 })],
  'a streamed extent': [stream, streamBytes({ grains: [Buffer.alloc(4096, 1), null, Buffer.alloc(4096, 3)] })],
  'an SESparse extent': [sesparse, seSparseBytes([1, 'none', 'zero', 0, 'unmapped'])],
};

/** Values that mean something somewhere: small, large, and those of the file. */
function damaged(bytes: Buffer, random: () => number): Buffer {
  const copy = Buffer.from(bytes);
  for (let n = 1 + Math.floor(random() * 4); n > 0; n--) {
    const at = Math.floor((random() < 0.4 ? random() * 512 : random() * bytes.length) / 4) * 4;
    const values = [
      0,
      1,
      0xffffffff,
      0x80000000,
      Math.floor(random() * 40),
      Math.floor(random() * 2 ** 32),
      copy.readUInt32LE(at) + 1,
    ];
    copy.writeUInt32LE(values[Math.floor(random() * values.length)]! >>> 0, at);
  }
  return random() < 0.2 ? copy.subarray(0, Math.floor(random() * copy.length)) : copy;
}

/** @returns null if it threw, which only an error of imgfuse may */
function attempt<T>(action: () => T): T | null {
  try {
    return action();
  } catch (error) {
    if (error instanceof ImgfuseError) return null;
    throw error;
  }
}

function readSome(image: Extent): Buffer {
  const bytes = Buffer.alloc(Math.min(READ_BYTES, image.virtualSize()));
  attempt(() => image.read(bytes, 0, bytes.length, guestOffset(0)));
  attempt(() => image.mapStatus(guestOffset(0), bytes.length));
  return bytes;
}

function writeAndClose(kind: ExtentKind, file: MemoryHostFile): void {
  const image = attempt(() => openExtent(kind, file));
  if (image === null || image.readOnly || !('write' in image)) return;
  const size = Math.min(READ_BYTES, image.virtualSize());
  const length = Math.min(8192, size);
  const at = Math.floor(size / 2 / 512) * 512;
  const bytes = Buffer.alloc(Math.min(length, size - at), 0x5a);
  const isWritten = attempt(() => image.write(bytes, 0, bytes.length, guestOffset(at)) ?? true) !== null;
  const read = Buffer.alloc(bytes.length);
  if (isWritten) image.read(read, 0, read.length, guestOffset(at));
  expect(isWritten && !isSame(read, bytes)).toBe(false);
  attempt(() => image.close());
}

describe.each(Object.entries(IMAGES))('%s with random damage', (_, [kind, bytes]) => {
  test(`is an error, or can be repaired (seed ${SEED})`, { timeout: 600_000 }, () => {
    const random = seededRandom(SEED);
    for (let n = 0; n < sliceOf('extentFuzz'); n++) {
      const file = new MemoryHostFile(damaged(bytes, random), '/disk.vmdk');
      const before = Buffer.from(file.bytes());
      const image = attempt(() => openExtent(kind, file.clone(true), { readOnly: true }));
      if (image !== null) readSome(image);
      const { check } = kind;
      if (check !== undefined) {
        attempt(() => checkExtent({ check }, file));
        expect(isSame(file.bytes(), before), `image ${n}`).toBe(true);
        const repaired = file.clone();
        const report = attempt(() => checkExtent({ check }, repaired, 'all'));
        if (report !== null && report.checkErrors === 0) {
          expect(checkExtent({ check }, repaired), `image ${n}`).toMatchObject({ corruptions: 0, leaks: 0 });
        }
        writeAndClose(kind, repaired);
      }
      writeAndClose(kind, file);
    }
  });
});
