// The snapshots in the status of a mount: their files, and a list that is never too long for the control socket.

import { expect, test } from 'vitest';
import { snapshotsStatus } from '../../../../src/daemon/inspection/snapshot-status.ts';
import type { ReadableSnapshot } from '../../../../src/disk/index.ts';

/** What the answer of the control socket may have, with room for the rest of it. */
const LIMIT = 3 * 1024 * 1024;

function snapshot(id: string, name: string): ReadableSnapshot {
  return {
    ...{ id, name, virtualSize: 1024, vmStateSize: '4096', icount: null },
    ...{ dateSeconds: 5, dateNanoseconds: 6, vmClockSeconds: 0, vmClockNanoseconds: 0 },
  };
}

function statusOf(list: readonly ReadableSnapshot[], hasFiles = true) {
  return snapshotsStatus({ snapshots: () => list }, hasFiles);
}

test('an image without snapshots has none', () => {
  expect(statusOf([])).toEqual({});
});

test('each has its id, its name, its size, its date, and the file that shows it', () => {
  const list = [snapshot('1', 'a/b'), snapshot('2', 'a/b'), snapshot('2', 'a/b')];
  const common = { 'virtual-size': 1024, 'vm-state-size': 4096, 'date-sec': 5, 'date-nsec': 6 };
  expect(statusOf(list)).toEqual({
    snapshots: [
      { id: '1', name: 'a/b', file: 'a%2Fb.raw', ...common },
      { id: '2', name: 'a/b', file: '2.raw', ...common },
      { id: '2', name: 'a/b', file: null, ...common },
    ],
  });
});

test('a mountpoint that is the disk itself shows no file of them', () => {
  expect(statusOf([snapshot('1', 'one')], false).snapshots).toEqual([expect.objectContaining({ file: null })]);
});

test('of thousands with the longest names 256 are listed, and the others are counted', () => {
  const list = Array.from({ length: 4096 }, (_, i) => snapshot(`${i}${'\udcff'.repeat(250)}`, '\udcfe'.repeat(255)));
  const status = statusOf(list);
  expect(status.snapshots).toHaveLength(256);
  expect(status['more-snapshots']).toBe(4096 - 256);
  expect(JSON.stringify(status).length).toBeLessThan(LIMIT);
});
