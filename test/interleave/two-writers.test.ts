// Rule R3 with real threads: requests that wait for the same cluster all get their turn.

import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { Mutex } from '../../src/concurrency/mutex.ts';
import { type ReservationState, Reservations, SHARED } from '../../src/concurrency/reservations.ts';
import { createDisk, openDisk } from '../../src/disk/index.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));

interface SharedState {
  readonly words: SharedArrayBuffer;
  readonly reservations: ReservationState;
}

const WAIT_MS = 10_000;

test.each([
  'qed',
  'qcow2',
  'vdi',
  'vpc',
  'vmdk',
  'qcow',
  'parallels',
  'vhdx',
])('two writes that wait for one unallocated %s cluster do not wait for each other', async (format) => {
  const path = join(folder, `disk.${format}`);
  createDisk(path, format, { size: 1024 * 1024, options: new Map() });
  const disk = openDisk(path, { readOnly: false, slots: 4 });
  const shared = disk.share();
  const whole = shared.image.state as SharedState & { readonly extents?: readonly { readonly state: SharedState }[] };
  const state = whole.extents?.[0]?.state ?? whole;
  // a read of cluster 0 is in flight
  const lock = new Mutex(new Int32Array(state.words), 0);
  const reader = new Reservations(state.reservations, lock, 3);
  lock.run(() => reader.acquire(0, 1, SHARED));
  const threads = [1, 2].map(
    (slot) => new Worker(new URL('./reservation-thread.mjs', import.meta.url), { workerData: { shared, slot } }),
  );
  try {
    const done = Promise.all(threads.map((thread) => new Promise((resolve) => thread.once('message', resolve))));
    await new Promise((resolve) => setTimeout(resolve, 700));
    reader.release();
    const late = new Promise((resolve) => setTimeout(resolve, WAIT_MS, 'late'));
    expect(await Promise.race([done, late])).toEqual([1, 2]);
    const bytes = new Uint8Array(1536);
    disk.read(bytes, 0, bytes.length, guestOffset(0));
    expect([bytes[0], bytes[512], bytes[1024]]).toEqual([0, 1, 2]);
  } finally {
    await Promise.all(threads.map((thread) => thread.terminate()));
    disk.close();
  }
});
