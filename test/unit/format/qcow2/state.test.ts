// The shared numbers of an open qcow2 image: what an open puts into them, and what each step does to them.

import { expect, test } from 'vitest';
import { hostOffset } from '../../../../src/bytes/offsets.ts';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import { DiskNumbers } from '../../../../src/format/mapped/disk-numbers.ts';
import { METADATA_LOCK } from '../../../../src/format/mapped/mapped-state.ts';
import { createUnreadFreeState } from '../../../../src/format/qcow2/counters/unread-free.ts';
import { createMetadataClustersState } from '../../../../src/format/qcow2/metadata-clusters.ts';
import { createQcow2State, type FixedHeader, HEADER_BITS, Qcow2Numbers } from '../../../../src/format/qcow2/state.ts';

const CLUSTER = 65536;
const LENGTH = 10 * CLUSTER;

const HEADER: FixedHeader = {
  ...{ version: 3, clusterBits: 16, refcountOrder: 4, extendedL2: false, compressionType: 'zlib', cryptMethod: 0 },
  ...{ snapshotCount: 0, incompatible: [0, 0], lazyRefcounts: false, hasDataFile: false, dataFileRaw: false },
  ...{ backingName: null, backingFormat: null, specific: {} },
};

function opened() {
  const state = createQcow2State(HEADER, {
    ...{ fileLength: LENGTH, usedEnd: 8 * CLUSTER, virtualSize: 2 ** 30, allocatedClusters: 3, headerBits: 2 },
    ...{ l1Table: { offset: 3 * CLUSTER, entries: 2 }, refcountTable: { offset: CLUSTER, entries: 8192 } },
    ...{ volumeKey: null, metadata: createMetadataClustersState(10) },
    ...{ unreadFree: createUnreadFreeState(10, []), hasLeaks: false, snapshots: [] },
    ...{ tableCacheBytes: 2 ** 20, slots: 1, readOnly: false },
  });
  const lock = new Mutex(new Int32Array(state.words), METADATA_LOCK);
  const shared = { numbers: state.numbers, lock, readOnly: false };
  return { state, lock, disk: new DiskNumbers(shared), numbers: new Qcow2Numbers(shared) };
}

test('an open image has what its header says, and new clusters come after the last one in use', () => {
  const { disk, lock, numbers, state } = opened();
  expect([disk.virtualSizeOutsideLock(), disk.allocatedClustersOutsideLock()]).toEqual([2 ** 30, 3]);
  lock.run(() => {
    const { fileEnd, l1Entries, l1Offset, neverUsed, refcountTableEntries, refcountTableOffset } = numbers;
    const { virtualSize } = disk;
    expect({ fileEnd, l1Entries, l1Offset, neverUsed, refcountTableEntries, refcountTableOffset, virtualSize }).toEqual(
      {
        ...{ fileEnd: 8 * CLUSTER, neverUsed: LENGTH, virtualSize: 2 ** 30 },
        ...{ l1Offset: 3 * CLUSTER, l1Entries: 2, refcountTableOffset: CLUSTER, refcountTableEntries: 8192 },
      },
    );
  });
  expect(new Int32Array(state.words)[HEADER_BITS]).toBe(2);
});

test('no number of a qcow2 image is looked at or changed without the lock', () => {
  const { disk, numbers } = opened();
  for (const access of [
    () => disk.virtualSize,
    () => numbers.l1Offset,
    () => numbers.l1Entries,
    () => numbers.refcountTableOffset,
    () => numbers.refcountTableEntries,
    () => numbers.fileEnd,
    () => numbers.neverUsed,
    () => numbers.isPlace(hostOffset(2 * CLUSTER), CLUSTER),
    () => disk.setVirtualSize(512),
    () => disk.addAllocated(1),
    () => disk.removeAllocated(1),
    () => numbers.setL1Table(hostOffset(0), 0),
    () => numbers.isRefcountTableShown,
    () => numbers.moveRefcountTable(hostOffset(0), 0),
    () => numbers.noteRefcountTableShown(),
    () => numbers.advanceFileEnd(hostOffset(LENGTH)),
    () => numbers.lowerFileEnd(hostOffset(0)),
    () => numbers.noteUsed(hostOffset(LENGTH)),
    () => numbers.noteCut(hostOffset(0)),
  ]) {
    expect(access).toThrow('under the metadata lock');
  }
});

test('a cluster lies inside the file, and outside the active L1 table and the refcount table', () => {
  const { lock, numbers } = opened();
  const isPlace = (cluster: number) => numbers.isPlace(hostOffset(cluster * CLUSTER), CLUSTER);
  lock.run(() => {
    expect([0, 1, 2, 3, 4, 7, 8].map(isPlace)).toEqual([true, false, true, false, true, true, false]);
    numbers.advanceFileEnd(hostOffset(9 * CLUSTER));
    expect([8, 9].map(isPlace)).toEqual([true, false]);
    expect([Number.NaN, 2 ** 63].map((at) => numbers.isPlace(hostOffset(at), CLUSTER))).toEqual([false, false]);
  });
});

test('a table that has moved is in use where it is now, and the other one stays', () => {
  const { lock, numbers } = opened();
  lock.run(() => {
    numbers.setL1Table(hostOffset(20 * CLUSTER), 9);
    expect([numbers.l1Offset, numbers.l1Entries]).toEqual([20 * CLUSTER, 9]);
    expect([numbers.refcountTableOffset, numbers.refcountTableEntries]).toEqual([CLUSTER, 8192]);
    numbers.moveRefcountTable(hostOffset(30 * CLUSTER), 16384);
    expect([numbers.l1Offset, numbers.l1Entries]).toEqual([20 * CLUSTER, 9]);
    expect([numbers.refcountTableOffset, numbers.refcountTableEntries]).toEqual([30 * CLUSTER, 16384]);
    expect(numbers.isRefcountTableShown).toBe(false);
    expect(numbers.noteRefcountTableShown()).toEqual({ offset: CLUSTER, entries: 8192 });
    expect(numbers.isRefcountTableShown).toBe(true);
  });
});

test('an append moves the end of the clusters in use up, and only what is given back moves it down', () => {
  const { lock, numbers } = opened();
  lock.run(() => {
    numbers.advanceFileEnd(hostOffset(12 * CLUSTER));
    expect(() => numbers.advanceFileEnd(hostOffset(11 * CLUSTER))).toThrow('an append moves');
    expect(() => numbers.lowerFileEnd(hostOffset(13 * CLUSTER))).toThrow('only an append');
    numbers.lowerFileEnd(hostOffset(11 * CLUSTER));
    expect(numbers.fileEnd).toBe(11 * CLUSTER);
  });
});

test('a place that was written once is no longer fresh, until the file is cut there', () => {
  const { lock, numbers } = opened();
  lock.run(() => {
    numbers.noteUsed(hostOffset(12 * CLUSTER));
    numbers.noteUsed(hostOffset(11 * CLUSTER));
    expect(numbers.neverUsed).toBe(12 * CLUSTER);
    numbers.noteCut(hostOffset(9 * CLUSTER));
    expect(numbers.neverUsed).toBe(9 * CLUSTER);
  });
});

test('clusters are counted up and down', () => {
  const { disk, lock } = opened();
  lock.run(() => {
    disk.addAllocated(3);
    disk.removeAllocated(5);
  });
  expect(disk.allocatedClustersOutsideLock()).toBe(1);
});
