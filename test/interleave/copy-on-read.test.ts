// Rule R4: a read that copies a cluster up never overwrites what a guest wrote, not even another sector of that cluster, at
// any point of either; and a cluster is copied once.

import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openDisk } from '../../src/disk/index.ts';
import { sliceOf } from '../support/slices.ts';
import { CLUSTER, makeTemplate, SUBJECTS } from './interleaving.ts';
import {
  discard,
  EMPTY,
  flush,
  read,
  type Situation,
  testSituations,
  useTwoThreads,
  write,
  zero,
} from './situations.ts';

const copying = read(EMPTY + 1024);
const situations: readonly Situation[] = [
  { name: 'a write to the sector that is read', first: copying, others: [write(EMPTY + 1024, 512, 1), flush] },
  { name: 'a write to another sector of the cluster', first: copying, others: [write(EMPTY + 3072, 512, 1), flush] },
  { name: 'a write of the whole cluster', first: copying, others: [write(EMPTY, CLUSTER, 1), flush] },
  { name: 'a write across the end of the cluster', first: copying, others: [write(EMPTY + 3072, 2048, 1)] },
  { name: 'a discard of the cluster', first: copying, others: [discard(EMPTY), flush, read(EMPTY), flush] },
  { name: 'zeroes in the cluster', first: copying, others: [zero(EMPTY + 512, 2048), flush] },
  { name: 'another read of the cluster', first: copying, others: [read(EMPTY, CLUSTER), read(EMPTY, CLUSTER)] },
  { name: 'a flush', first: copying, others: [flush] },
  {
    name: 'a read of many clusters and a write to one',
    first: read(EMPTY, 9 * CLUSTER),
    others: [write(EMPTY + 5 * CLUSTER, 512, 1), flush],
  },
  {
    name: 'a write, and reads of its cluster',
    first: write(EMPTY + 3072, 512, 1),
    others: [copying, read(EMPTY, CLUSTER), flush],
  },
  {
    name: 'a discard, and reads of its cluster',
    first: discard(EMPTY),
    others: [copying, flush, read(EMPTY, CLUSTER)],
  },
  {
    name: 'a flush, and reads that copy',
    first: flush,
    others: [copying, read(EMPTY + CLUSTER)],
    before: [read(EMPTY + 4 * CLUSTER)],
  },
];

const setting = useTwoThreads();

for (const each of SUBJECTS.filter(({ backing }) => backing)) {
  const subject = { ...each, copyOnRead: true };
  describe(subject.name, () => {
    testSituations(setting, subject, situations, 'a read that copies: ');

    test('two reads of one cluster copy it once, at every point of the first', { timeout: 120_000 }, async () => {
      const { folder, script } = setting;
      makeTemplate(folder, subject);
      const points = [Number.MAX_SAFE_INTEGER];
      for (const point of points) {
        const path = join(folder, `disk.${subject.format}`);
        copyFileSync(join(folder, 'template'), path);
        const disk = openDisk(path, { readOnly: false, slots: 3, copyOnRead: true });
        const before = disk.allocatedBytes();
        await script.attach(disk);
        const reached = script.count(1, 'backing-read') + script.count(2, 'backing-read');
        script.stopAtAny(1, point);
        script.begin(1, copying);
        if (await script.stopsBeforeItEnds(1)) {
          script.begin(2, read(EMPTY + 2048));
          script.resume(1);
          expect((await script.answer(2)).bytes![0]).toBe(200);
        } else {
          points.push(...script.pointsOf(1));
        }
        expect((await script.answer(1)).bytes![0]).toBe(200);
        script.disarm(1);
        expect(script.count(1, 'backing-read') + script.count(2, 'backing-read') - reached).toBe(1);
        expect(disk.allocatedBytes() - before).toBe(disk.clusterSize);
        disk.close();
      }
      expect(points.length - 1).toBeGreaterThanOrEqual(Math.floor(3 / sliceOf('points')));
    });
  });
}
