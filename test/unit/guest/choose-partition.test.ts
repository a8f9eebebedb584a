// Which place on a disk is attached without the user's word, and which is not.

import { expect, test } from 'vitest';
import { choosePartitions, type GuestPartition } from '../../../src/guest/choose-partition.ts';
import { useOfType } from '../../../src/guest/partitions/index.ts';

function place(number: number | null, type: string | null, isFirmware = false): GuestPartition {
  const common = { label: null, uuid: null, needsRecovery: null, also: [] };
  const content = type === null ? null : { type, use: useOfType(type)!, ...common };
  return { number, start: 0, size: 4096, use: 'any', isFirmware, content };
}

const numbers = (all: readonly GuestPartition[], choice: 'auto' | 'all' | 'disk' | number): (number | null)[] =>
  choosePartitions('disk.iso', all, choice).map(({ number }) => number);

const FIRMWARE = place(2, 'vfat', true);

test('a CD is taken rather than the partition from which firmware starts it', () => {
  expect(numbers([place(null, 'iso9660'), place(1, null), FIRMWARE], 'auto')).toEqual([null]);
});

test('all partitions are all but the CD, which would cover their directories', () => {
  expect(numbers([place(null, 'iso9660'), place(1, null), FIRMWARE], 'all')).toEqual([2]);
  expect(numbers([place(null, 'iso9660'), place(1, null)], 'all')).toEqual([null]);
});

test('another file system beside a table is taken only by name', () => {
  const disk = [place(null, 'ext4'), place(1, null)];
  expect(() => numbers(disk, 'auto')).toThrow('perhaps from before it was partitioned');
  expect(() => numbers(disk, 'all')).toThrow('perhaps from before it was partitioned');
  expect(numbers(disk, 'disk')).toEqual([null]);
  expect(numbers([place(null, 'ext4'), FIRMWARE], 'auto')).toEqual([2]);
});

test('a disk without a table is taken by every name but a number', () => {
  for (const choice of ['auto', 'all', 'disk'] as const) expect(numbers([place(null, 'xfs')], choice)).toEqual([null]);
  expect(() => numbers([place(null, 'xfs')], 1)).toThrow('it has no partitions; leave --partition out');
});
