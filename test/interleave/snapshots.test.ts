// A reader of a snapshot beside a thread that changes the disk: each is stopped at every point while the other goes on. A cluster
// of a snapshot keeps its bytes, whatever is written, discarded, flushed and allocated after the reader has looked it up.

import { execFileSync } from 'node:child_process';
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import type { Failpoint } from '../../src/concurrency/failpoints.ts';
import { openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { firstDifference } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import type { Answer, Operation } from '../support/script.ts';
import { sliceOf } from '../support/slices.ts';
import { isLocked } from './interleaving.ts';
import { discard, flush, useTwoThreads, write } from './situations.ts';

const KIB = 1024;
const SIZE = 1024 * KIB;
/** Where the file changes, or the lock is not held. */
const CHANGES: readonly Failpoint[] = [
  'data-write',
  'flush',
  'l1-update',
  'l2-update',
  'punch-hole',
  'refcount-update',
];
/** Two slices: those of the snapshot and of the disk drive each other out. */
const TABLE_CACHE_BYTES = 8192;

interface Subject {
  readonly name: string;
  readonly options: string;
  readonly cluster: number;
  readonly hasBacking?: boolean;
}

const SUBJECTS: readonly Subject[] = [
  { name: 'qcow2', options: 'cluster_size=4k', cluster: 4 * KIB },
  {
    name: 'qcow2 with lazy refcounts',
    options: 'cluster_size=4k,lazy_refcounts=on',
    cluster: 4 * KIB,
    hasBacking: true,
  },
  {
    name: 'qcow2 with subclusters over a backing file',
    options: 'cluster_size=16k,extended_l2=on',
    cluster: 16 * KIB,
    hasBacking: true,
  },
];

const setting = useTwoThreads();

beforeEach((context) => requireOrSkip(context, hasQemu, 'qemu-img and qemu-io'));

/** An image with two snapshots: data, a compressed cluster, zeros and a discarded range, changed between. */
function makeImage({ options, cluster, hasBacking }: Subject): string {
  const path = join(setting.folder, 'template.qcow2');
  const base = join(setting.folder, 'base.raw');
  if (hasBacking === true) writeFileSync(base, Buffer.alloc(SIZE - 100 * KIB, 200));
  const below = hasBacking === true ? ['-b', base, '-F', 'raw'] : [];
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, ...below, path, String(SIZE));
  const io = (...commands: string[]) =>
    execFileSync('qemu-io', ['-d', 'unmap', '-f', 'qcow2', ...commands.flatMap((each) => ['-c', each]), path]);
  io(`write -c -P 5 ${8 * cluster} ${cluster}`, 'write -P 1 0 96k', 'write -z 512k 32k', 'write -P 2 600k 10k');
  qemuImg('snapshot', '-c', 'first', path);
  io('write -P 3 16k 40k', 'discard 64k 32k', 'write -P 4 700k 20k');
  qemuImg('snapshot', '-c', 'second', path);
  return path;
}

function openCopy(template: string): { readonly disk: VirtualDisk; readonly path: string } {
  const path = join(setting.folder, 'disk.qcow2');
  copyFileSync(template, path);
  const options = { readOnly: false, snapshots: true, slots: 3, tableCacheBytes: TABLE_CACHE_BYTES };
  return { path, disk: openDisk(path, options) };
}

function contentsOf(template: string): Buffer[] {
  const disk = openDisk(template, { readOnly: true, snapshots: true });
  try {
    return [0, 1].map((position) => {
      const bytes = Buffer.alloc(SIZE);
      disk.openSnapshot(position).read(bytes, 0, SIZE, guestOffset(0));
      return bytes;
    });
  } finally {
    disk.close();
  }
}

/** All that the snapshots have is replaced, its release is durable, and what is free then is taken and written. */
const OVERWRITE: readonly Operation[] = [
  write(0, 64 * KIB, 11),
  discard(64 * KIB, 448 * KIB),
  { kind: 'zero', at: 600 * KIB, length: 200 * KIB },
  flush,
  flush,
  write(256 * KIB, 256 * KIB, 12),
  flush,
  write(800 * KIB, 200 * KIB, 13),
  flush,
  // links that wait while the reader goes on
  write(64 * KIB, 192 * KIB, 14),
];

/** A write of every kind of cluster, the flush that frees what is replaced, and one that links new clusters in its place. */
const SOME_STEPS = [0, 4, 6];

/** Thread 1 is stopped, perhaps with a lock: thread 2 does all of these, or what it can, and the rest when thread 1 goes on. */
async function runBeside(disk: VirtualDisk, steps: readonly Operation[]): Promise<Answer[]> {
  const { script } = setting;
  const answers: Answer[] = [];
  if (isLocked(disk)) {
    script.begin(2, steps[0]!);
    script.resume(1);
    answers.push(await script.answer(2));
  }
  for (const step of steps.slice(answers.length)) answers.push(await script.run(2, step));
  return answers;
}

interface Stopped {
  /** done by thread 1 at the start, and not counted */
  readonly before: readonly Operation[];
  /** stopped at each of its points */
  readonly first: Operation;
  /** done by thread 2 meanwhile */
  readonly others: readonly Operation[];
  readonly only?: readonly Failpoint[];
}

/** @param check is called with all answers, those of thread 2 first @returns how many points there were */
async function everyPoint(
  template: string,
  { before, first, others, only }: Stopped,
  check: (answers: readonly Answer[], where: string) => void,
): Promise<number> {
  const { script } = setting;
  let points: readonly number[] = [Number.MAX_SAFE_INTEGER];
  for (let turn = 0; turn < points.length; turn++) {
    const { disk, path } = openCopy(template);
    try {
      await script.attach(disk);
      for (const step of before) expect((await script.run(1, step)).error).toBeNull();
      script.clearLog();
      script.stopAtAny(1, points[turn]!);
      script.begin(1, first);
      const stops = await script.stopsBeforeItEnds(1);
      const answers = stops ? await runBeside(disk, others) : [];
      if (stops) script.resume(1);
      answers.push(await script.answer(1));
      script.disarm(1);
      check(answers, `point ${points[turn]}`);
      // the first turn is for its log
      if (turn === 0) points = [points[0]!, ...script.pointsOf(1, only)];
      else expect(stops).toBe(true);
    } finally {
      await script.letGo();
      disk.close();
    }
    if (turn === points.length - 1) qemuCheck(path, 'qcow2');
  }
  return points.length - 1;
}

function expectDone(answers: readonly Answer[], where: string): void {
  for (const { error } of answers) expect(error, where).toBeNull();
}

describe.each(SUBJECTS)('a snapshot of $name', (subject) => {
  test.each([
    0, 1,
  ])('is read as it was, whatever happens to the disk after a lookup of snapshot %i', async (snapshot) => {
    const template = makeImage(subject);
    const wanted = contentsOf(template)[snapshot]!;
    const first: Operation = { kind: 'read-snapshot', snapshot, at: 0, length: SIZE };
    const points = await everyPoint(template, { before: [], first, others: OVERWRITE }, (answers, where) => {
      expectDone(answers, where);
      expect(firstDifference(answers.at(-1)!.bytes!, wanted), where).toBe('none');
    });
    expect(points).toBeGreaterThanOrEqual(Math.floor(5 / sliceOf('points')));
  });

  const steps = subject === SUBJECTS[0] ? [...OVERWRITE.keys()] : SOME_STEPS;
  test.each(steps)('keeps its bytes at every point of step %i of a change of the disk', async (index) => {
    const first = OVERWRITE[index]!;
    const template = makeImage(subject);
    const wanted = contentsOf(template);
    const others: Operation[] = [0, 1].map((snapshot) => ({ kind: 'read-snapshot', snapshot, at: 0, length: SIZE }));
    await everyPoint(
      template,
      { before: OVERWRITE.slice(0, index), first, others, only: CHANGES },
      (answers, where) => {
        expectDone(answers, where);
        for (const [snapshot, { bytes }] of answers.slice(0, -1).entries()) {
          expect(firstDifference(bytes!, wanted[snapshot]!), `${where}, snapshot ${snapshot}`).toBe('none');
        }
      },
    );
  });
});
