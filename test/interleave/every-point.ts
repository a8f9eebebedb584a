// What destroyed data in real block layers, each at every possible point of one of its requests (native-notes/hazards.md). A file
// every-point-GROUP.test.ts has the images of one group, so that several processors share the work.

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openDisk } from '../../src/disk/index.ts';
import {
  CLUSTER,
  ENCRYPTED,
  FEATURES,
  isLocked,
  makeTemplate,
  SUBJECTS,
  type Subject,
  VERSION_1,
} from './interleaving.ts';
import {
  discard,
  EMPTY,
  flush,
  maintain,
  preallocate,
  read,
  type Setting,
  type Situation,
  testSituations,
  useTwoThreads,
  write,
  zero,
} from './situations.ts';

/** Behind the clusters of the third L2 table, where there is no fourth yet. */
const NEW_TABLE = 3 * 1024 * CLUSTER;

/** Reads of every table: with the smallest cache each one evicts another. */
const flood = [0, 1024, 2048, 3072, 0, 1024, 2048].map((cluster) => read(cluster * CLUSTER));

const middle = write(EMPTY + 1024, 1024, 1);
const situations: readonly Situation[] = [
  // R1: a table changes between two lookups of one request, or between the last of them and its reservation
  {
    name: 'a write into the first of two clusters while both are looked up',
    first: write(EMPTY + 2048, CLUSTER, 1),
    others: [write(EMPTY, 2560, 2), flush],
    only: ['l1-load', 'l2-load'],
  },
  // R2: a table in use
  { name: 'an allocating write while lookups flood the cache', first: middle, others: [...flood, read(EMPTY)] },
  { name: 'a write into a new L2 table while lookups flood the cache', first: write(NEW_TABLE, 512, 1), others: flood },
  { name: 'a discard while lookups flood the cache', first: discard(CLUSTER), others: flood },
  { name: 'a flush that links while lookups flood the cache', first: flush, others: flood, before: [middle] },
  // R3: two writes into one unallocated cluster
  { name: 'a write into the middle, then before it', first: middle, others: [write(EMPTY, 1024, 2)] },
  { name: 'a write into the middle, then behind it', first: middle, others: [write(EMPTY + 2048, 1024, 2)] },
  { name: 'a write behind, then the middle', first: write(EMPTY + 2048, 1024, 2), others: [middle] },
  { name: 'overlapping writes', first: middle, others: [write(EMPTY + 1536, 1024, 2)] },
  { name: 'the same sectors twice', first: middle, others: [write(EMPTY + 1024, 1024, 2)] },
  { name: 'a write of the whole cluster over a part', first: middle, others: [write(EMPTY, CLUSTER, 2)] },
  { name: 'a part over a write of the whole cluster', first: write(EMPTY, CLUSTER, 2), others: [middle] },
  { name: 'writes with a gap', first: write(EMPTY, 512, 1), others: [write(EMPTY + 3072, 512, 2)] },
  { name: 'a write into the next cluster', first: middle, others: [write(EMPTY + CLUSTER, 1024, 2)] },
  { name: 'a write across both clusters', first: middle, others: [write(EMPTY + 2048, 2 * CLUSTER, 2)] },
  {
    name: 'a long write across many clusters',
    first: write(EMPTY + 512, 9 * CLUSTER, 1),
    others: [write(EMPTY + 5 * CLUSTER, 512, 2), flush],
  },
  {
    name: 'two clusters of one new L2 table',
    first: write(NEW_TABLE, 512, 1),
    others: [write(NEW_TABLE + CLUSTER, 512, 2), flush],
  },
  {
    name: 'a read of the cluster that is written',
    first: middle,
    others: [read(EMPTY, CLUSTER), read(EMPTY, CLUSTER)],
  },
  {
    name: 'a write to what is read',
    first: read(EMPTY, 4 * CLUSTER),
    others: [write(EMPTY + CLUSTER, CLUSTER, 2), flush],
  },
  // R5: discard and write in flight
  {
    name: 'a discard of the cluster that is written in place',
    first: write(CLUSTER, 1024, 1),
    others: [
      discard(CLUSTER),
      flush,
      write(EMPTY, CLUSTER, 2),
      flush,
      flush,
      write(EMPTY + CLUSTER, CLUSTER, 3),
      flush,
    ],
  },
  {
    name: 'a write to the cluster that is discarded, and others in need of a cluster',
    first: discard(CLUSTER),
    others: [write(EMPTY, CLUSTER, 2), write(CLUSTER, 512, 3), flush, write(EMPTY + CLUSTER, CLUSTER, 4), flush],
  },
  {
    name: 'a discard of the cluster that is being allocated',
    first: middle,
    others: [discard(EMPTY), flush, write(EMPTY + CLUSTER, CLUSTER, 3), flush],
  },
  {
    name: 'a read from the cluster that is discarded and used again',
    first: read(CLUSTER, CLUSTER),
    others: [discard(CLUSTER), flush, flush, write(EMPTY, CLUSTER, 2), flush],
  },
  {
    name: 'new clusters while a flush makes a discard durable',
    first: flush,
    others: [write(EMPTY, CLUSTER, 2), write(EMPTY + CLUSTER, CLUSTER, 3)],
    before: [discard(CLUSTER), write(2 * CLUSTER, 512, 9)],
  },
  {
    name: 'new clusters while a second flush punches',
    first: flush,
    others: [write(EMPTY, CLUSTER, 2), write(EMPTY + CLUSTER, CLUSTER, 3), flush],
    before: [discard(CLUSTER), flush, write(2 * CLUSTER, 512, 9)],
  },
  {
    name: 'zeroes written over a write',
    first: write(CLUSTER + 512, 1024, 1),
    others: [zero(CLUSTER, CLUSTER), flush],
  },
  {
    name: 'a write into what is zeroed',
    first: zero(CLUSTER, 2 * CLUSTER),
    others: [write(CLUSTER + 512, 1024, 1), flush],
  },
  {
    name: 'zeroes over part of a cluster that is being allocated',
    first: middle,
    others: [zero(EMPTY + 512, 1024), flush],
  },
  // R6, R7: flush and idle work at every point
  { name: 'a flush during an allocating write', first: middle, others: [flush] },
  {
    name: 'a flush of what another thread wrote during an allocating write',
    first: middle,
    others: [write(EMPTY + 4 * CLUSTER, 512, 2), flush],
  },
  {
    name: 'a write during a flush',
    first: flush,
    others: [write(EMPTY + 4 * CLUSTER, 512, 2), flush],
    before: [middle],
  },
  { name: 'idle work during an allocating write', first: middle, others: [maintain] },
  { name: 'idle work during a discard', first: discard(0, 3 * CLUSTER), others: [maintain] },
  {
    name: 'an allocating write during idle work',
    first: maintain,
    others: [write(EMPTY + 4 * CLUSTER, 512, 2), flush],
    before: [middle, discard(CLUSTER)],
  },
  { name: 'a reservation of space during a write', first: middle, others: [preallocate(EMPTY, 2 * CLUSTER), flush] },
  { name: 'a write during a reservation of space', first: preallocate(EMPTY, 4 * CLUSTER), others: [middle, flush] },
  {
    name: 'writes of first sectors during a reservation of space',
    first: preallocate(EMPTY, 4 * CLUSTER),
    others: [write(EMPTY, 1024, 2), write(EMPTY + CLUSTER, CLUSTER, 3), flush],
  },
];

/** Where it matters that clusters are written whole and sectors are scrambled by their place in the file. */
const OF_ENCRYPTED = [
  'a write into the middle, then behind it',
  'a write of the whole cluster over a part',
  'a read of the cluster that is written',
  'a discard of the cluster that is being allocated',
  'a read from the cluster that is discarded and used again',
  'zeroes over part of a cluster that is being allocated',
];

/** The images of each group, which take about as long together as those of any other one. */
export const GROUPS = {
  qed: of('qed'),
  vdi: of('vdi'),
  vmdk: of('vmdk'),
  vpc: of('vpc'),
  qcow2: of('qcow2').filter((subject) => !hasSubclusters(subject)),
  subclusters: of('qcow2').filter(hasSubclusters),
  others: [...of('parallels'), ...FEATURES, VERSION_1, ENCRYPTED],
} as const satisfies Readonly<Record<string, readonly Subject[]>>;

function of(format: Subject['format']): readonly Subject[] {
  return SUBJECTS.filter((subject) => subject.format === format);
}

function hasSubclusters({ options }: Subject): boolean {
  return options.some(([name]) => name === 'extended_l2');
}

/** The tests of a file. */
export function testEveryPoint(group: keyof typeof GROUPS): void {
  const setting = useTwoThreads();
  for (const subject of GROUPS[group]) {
    describe(subject.name, () => {
      if (subject !== ENCRYPTED) testStoppedWrite(setting, subject);
      testSituations(
        setting,
        subject,
        situations.filter((situation) => concerns(subject, situation)),
      );
    });
  }
}

function concerns({ backing, format, isEncrypted }: Subject, { first, name }: Situation): boolean {
  if (isEncrypted === true) return OF_ENCRYPTED.includes(name);
  // without a dirty bit and without links that are held back there is nothing to do when idle
  return !(first === maintain && format === 'vpc' && !backing);
}

function testStoppedWrite(setting: Setting, subject: Subject): void {
  test('a thread that is stopped in a write of data holds no lock, so that others can go on', async () => {
    makeTemplate(setting.folder, subject);
    const disk = openDisk(join(setting.folder, 'template'), { readOnly: false, slots: 3 });
    await setting.script.attach(disk);
    await setting.script.beginAndStop(1, middle, 'data-write');
    expect(isLocked(disk)).toBe(false);
    expect((await setting.script.run(2, read(CLUSTER))).error).toBeNull();
    expect((await setting.script.finish(1)).error).toBeNull();
    disk.close();
  });
}
