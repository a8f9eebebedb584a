// The shared numbers of an open QED image: what an open puts into them, and what each step does to them.

import { expect, test } from 'vitest';
import { hostOffset } from '../../../../src/bytes/offsets.ts';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import { DiskNumbers } from '../../../../src/format/mapped/disk-numbers.ts';
import { METADATA_LOCK } from '../../../../src/format/mapped/mapped-state.ts';
import { readHeader } from '../../../../src/format/qed/header.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { createQedState, DIRTY, QedNumbers } from '../../../../src/format/qed/state.ts';
import { createMemoryImage } from '../../../support/memory-images.ts';

const CLUSTER = 65536;
const END = 10 * CLUSTER;

function opened(isDirty = false) {
  const header = readHeader(createMemoryImage(qed, 2 ** 30), { mayBeCut: false });
  const state = createQedState(header, {
    ...{ fileLength: END, virtualSize: 2 ** 30, allocatedClusters: 5, isDirty },
    ...{ tableCacheBytes: 2 ** 20, slots: 1, readOnly: false },
  });
  const lock = new Mutex(new Int32Array(state.words), METADATA_LOCK);
  const shared = { numbers: state.numbers, lock, readOnly: false };
  return { state, lock, disk: new DiskNumbers(shared), numbers: new QedNumbers(shared) };
}

test('an open image has the size of its header, and all of its file is in use and durable', () => {
  const { disk, lock, numbers, state } = opened();
  expect(disk.virtualSizeOutsideLock()).toBe(2 ** 30);
  expect(disk.allocatedClustersOutsideLock()).toBe(5);
  lock.run(() => {
    const { durableLength, fileEnd, fileLength } = numbers;
    const { virtualSize } = disk;
    expect({ durableLength, fileEnd, fileLength, virtualSize }).toEqual({
      ...{ durableLength: END, fileEnd: END, fileLength: END, virtualSize: 2 ** 30 },
    });
    expect(numbers.isSearchedForZeroEntries).toBe(false);
  });
  expect(new Int32Array(state.words)[DIRTY]).toBe(0);
  expect(new Int32Array(opened(true).state.words)[DIRTY]).toBe(1);
});

test('no number of a QED image is looked at or changed without the lock', () => {
  const { disk, numbers } = opened();
  for (const access of [
    () => disk.virtualSize,
    () => numbers.fileEnd,
    () => numbers.fileLength,
    () => numbers.durableLength,
    () => numbers.lastChangeMs,
    () => numbers.zeroEntryEpoch,
    () => numbers.isSearchedForZeroEntries,
    () => numbers.reachedLength(),
    () => disk.setVirtualSize(512),
    () => disk.addAllocated(1),
    () => disk.removeAllocated(1),
    () => numbers.advanceFileEnd(hostOffset(END)),
    () => numbers.lowerFileEnd(hostOffset(END)),
    () => numbers.noteExtended(END),
    () => numbers.noteCut(END),
    () => numbers.noteDurable({ length: END, cuts: 0 }),
    () => numbers.noteChange(1),
    () => numbers.noteZeroEntries(),
    () => numbers.noteSearched(1),
  ]) {
    expect(access).toThrow('under the metadata lock');
  }
});

test('clusters are appended inside the file and given back at its end', () => {
  const { lock, numbers } = opened();
  lock.run(() => {
    expect(() => numbers.advanceFileEnd(hostOffset(END + CLUSTER))).toThrow('inside the file');
    numbers.noteExtended(END + 4 * CLUSTER);
    numbers.advanceFileEnd(hostOffset(END + CLUSTER));
    expect(() => numbers.advanceFileEnd(hostOffset(END))).toThrow('inside the file');
    expect(() => numbers.lowerFileEnd(hostOffset(END + 2 * CLUSTER))).toThrow('only an append');
    numbers.lowerFileEnd(hostOffset(END));
    expect([numbers.fileEnd, numbers.fileLength]).toEqual([END, END + 4 * CLUSTER]);
  });
});

test('a length is durable after a sync that began with it, unless the file was cut since', () => {
  const { lock, numbers } = opened();
  lock.run(() => {
    numbers.noteExtended(END + 4 * CLUSTER);
    const reached = numbers.reachedLength();
    expect(numbers.durableLength).toBe(END);
    numbers.noteDurable(reached);
    expect(numbers.durableLength).toBe(END + 4 * CLUSTER);
    // a sync that began earlier ends later
    numbers.noteDurable({ ...reached, length: END });
    expect(numbers.durableLength).toBe(END + 4 * CLUSTER);
    numbers.noteCut(END);
    expect(numbers.durableLength).toBe(END);
    numbers.noteExtended(END + 4 * CLUSTER);
    numbers.noteDurable(reached);
    expect(numbers.durableLength).toBe(END);
  });
});

test('a search for entries that read as zeros counts for those that were there when it began', () => {
  const { lock, numbers } = opened();
  lock.run(() => {
    const epoch = numbers.zeroEntryEpoch;
    numbers.noteZeroEntries();
    numbers.noteSearched(epoch);
    expect(numbers.isSearchedForZeroEntries).toBe(false);
    numbers.noteSearched(numbers.zeroEntryEpoch);
    expect(numbers.isSearchedForZeroEntries).toBe(true);
  });
});

test('clusters are counted up and down', () => {
  const { disk, lock } = opened();
  lock.run(() => {
    disk.addAllocated(3);
    disk.removeAllocated(7);
  });
  expect(disk.allocatedClustersOutsideLock()).toBe(1);
});
