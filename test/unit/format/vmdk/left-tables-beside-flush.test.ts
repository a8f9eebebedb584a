import { afterEach, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { Reservations } from '../../../../src/concurrency/reservations.ts';
import type { SharedImage } from '../../../../src/format/image-format.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const { exclusively } = Reservations.prototype;
afterEach(() => {
  Reservations.prototype.exclusively = exclusively;
});

const GRAIN = 65536;
const TABLE = 512 * GRAIN;

test('a grain whose link waits while left tables are looked for is not freed', () => {
  const parentFile = createMemoryImage(vmdk, 2 * TABLE);
  const filled = openImage(vmdk, parentFile);
  for (let grain = 0; grain < 4; grain++)
    filled.write(new Uint8Array(GRAIN).fill(3), 0, GRAIN, guestOffset(grain * GRAIN));
  filled.close();
  const parent = openImage(vmdk, parentFile, { readOnly: true });
  const file = createMemoryImage(vmdk, 2 * TABLE, {}, 'parent.vmdk');
  const one = openImage(vmdk, file, { backing: parent, slots: 2, tableCacheBytes: 1 << 20 });
  const two = vmdk.attach(file, one.share(), { backing: parent, extents: [], log: () => undefined, slot: 1 });
  one.write(new Uint8Array(512).fill(1), 0, 512, guestOffset(0));
  one.resize(4 * TABLE);
  const [extent] = (one.share().state as { readonly extents: readonly SharedImage[] }).extents;
  const flushLock = new Int32Array((extent!.state as { readonly tracker: SharedArrayBuffer }).tracker, 0, 4);
  /** a flush of another thread would wait */
  const isFlushing = (): boolean => flushLock[2] !== 0;
  let stage = 0;
  Reservations.prototype.exclusively = function (start, end, action) {
    if (stage === 0 && end === Number.POSITIVE_INFINITY) {
      stage = 1;
      // another thread, before everything is reserved: over the parent, so its link waits
      two.write(new Uint8Array(512).fill(9), 0, 512, guestOffset(GRAIN));
    }
    return exclusively.call(this, start, end, action) as never;
  };
  const { read } = MemoryHostFile.prototype;
  file.read = (target, targetOffset, length, offset) => {
    const got = read.call(file, target, targetOffset, length, offset);
    // both copies of the first table: the walk, which does not hold the metadata lock
    if (stage > 0 && length === 2048 && ++stage === 3 && !isFlushing()) two.flush();
    return got;
  };
  one.makeClean();
  Reservations.prototype.exclusively = exclusively;
  file.read = read;
  expect(stage).toBeGreaterThan(3);
  one.flush();
  one.close();
  const again = openImage(vmdk, file, { backing: parent, readOnly: true });
  const bytes = new Uint8Array(512);
  again.read(bytes, 0, 512, guestOffset(GRAIN));
  expect(bytes[0]).toBe(9);
});
