import { afterEach, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { FaultyHostFile } from '../../../support/wrapping-files.ts';

const { giveWay } = Mutex.prototype;
afterEach(() => {
  Mutex.prototype.giveWay = giveWay;
});

const GRAIN = 65536;
const TABLE = 512 * GRAIN;

test('an idle image that finishes a shrink does not take what was written after a later grow', () => {
  const made = createMemoryImage(vmdk, 8 * TABLE);
  let isFull = false;
  const file = new FaultyHostFile(made, (operation) => (isFull && operation === 'punch-hole' ? ERRNO.ENOSPC : null));
  const one = openImage(vmdk, file, { slots: 2, tableCacheBytes: 1 << 20 });
  const two = vmdk.attach(file, one.share(), { backing: null, extents: [], log: () => undefined, slot: 1 });
  for (const at of [0, TABLE, 5 * TABLE]) one.write(new Uint8Array(GRAIN).fill(1), 0, GRAIN, guestOffset(at));
  one.flush();
  // a full host keeps a shrink from its end
  isFull = true;
  expect(() => one.resize(512)).toThrow();
  isFull = false;
  let isDone = false;
  Mutex.prototype.giveWay = () => {
    if (isDone) return;
    isDone = true;
    // another thread
    two.resize(8 * TABLE);
    two.write(new Uint8Array(GRAIN).fill(9), 0, GRAIN, guestOffset(5 * TABLE));
    two.flush();
  };
  one.makeClean();
  Mutex.prototype.giveWay = giveWay;
  expect(isDone).toBe(true);
  const bytes = new Uint8Array(512);
  one.read(bytes, 0, 512, guestOffset(5 * TABLE));
  expect(bytes[0]).toBe(9);
});
