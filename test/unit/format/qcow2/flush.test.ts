// The second half of a flush: counters of what was discarded are lowered slice by slice, however long the runs are.

import { afterEach, expect, test, vi } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { listenToFailpoints } from '../../../../src/concurrency/failpoints.ts';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const CLUSTER = 4096;
const CLUSTERS = 20_000;

afterEach(() => {
  listenToFailpoints(null);
  vi.restoreAllMocks();
});

test.each([1, 16, 64])('writes counters of %i bits once for each slice, and lets others in between', (bits) => {
  const options = { cluster_size: String(CLUSTER), refcount_bits: String(bits), preallocation: 'metadata' };
  const file = createMemoryImage(qcow2, CLUSTERS * CLUSTER, options);
  const image = openImage(qcow2, file);
  let stores = 0;
  let storesOfHold = 0;
  let most = 0;
  const lock = Mutex.prototype.lock;
  vi.spyOn(Mutex.prototype, 'lock').mockImplementation(function (this: Mutex) {
    storesOfHold = 0;
    lock.call(this);
  });
  image.discard(guestOffset(0), CLUSTERS * CLUSTER);
  listenToFailpoints((name) => {
    if (name !== 'refcount-update') return;
    stores++;
    most = Math.max(most, ++storesOfHold);
  });
  image.flush();
  image.flush();
  listenToFailpoints(null);
  // 4 KiB of counters are a slice; the disk begins somewhere in one
  expect(stores).toBeGreaterThan(0);
  expect(stores).toBeLessThanOrEqual(Math.ceil((CLUSTERS * bits) / 8 / CLUSTER) + 20);
  expect(most).toBe(1);
  image.close();
  expect(qcow2.check(file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
});
