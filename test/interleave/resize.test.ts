// The size changes while requests are under way: at every point of either, what is cut off never comes back, and what
// stays keeps its bytes.

import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import type { Operation } from '../support/script.ts';
import { CLUSTER, makeTemplate, SIZE, SUBJECTS, untilDoneOrWaiting } from './interleaving.ts';
import { EMPTY, useTwoThreads, write as writeRange } from './situations.ts';

const SMALL = 1024 * 1024;
/** In a cluster that nothing was written to, before and behind the smaller size. */
const KEPT = EMPTY + 1024;
const CUT = 600 * CLUSTER + 1024;
/** The disk grows again to this size. A VHD gets a bitmap for each block over its parent, which a host file system is slow to cut off. */
const AGAIN = 640 * CLUSTER;

const setting = useTwoThreads();

const write = (at: number, value: number): Operation => writeRange(at, 1024, value);
const shrink: Operation = { kind: 'resize', length: SMALL };
const grow: Operation = { kind: 'resize', length: 2 * SIZE };

function byteAt(disk: VirtualDisk, offset: number): number {
  const bytes = new Uint8Array(1);
  disk.read(bytes, 0, 1, guestOffset(offset));
  return bytes[0]!;
}

/** `first` stopped at each of its points while `second` runs; `judge` looks at the disk when both are answered. */
async function everyPoint(
  format: string,
  [first, second]: readonly [Operation, Operation],
  judge: (disk: VirtualDisk, errors: readonly (string | null)[]) => void,
): Promise<number> {
  const { folder, script } = setting;
  const all = [Number.MAX_SAFE_INTEGER];
  for (const point of all) {
    const path = join(folder, `disk.${format}`);
    copyFileSync(join(folder, 'template'), path);
    const disk = openDisk(path, { readOnly: false, slots: 3, tableCacheBytes: 8192 });
    await script.attach(disk);
    script.stopAtAny(1, point);
    script.begin(1, first);
    const stopped = await script.stopsBeforeItEnds(1);
    if (stopped) {
      script.begin(2, second);
      await untilDoneOrWaiting(script, disk);
      script.resume(1);
    }
    script.disarm(1);
    const errors = [(await script.answer(1)).error];
    if (stopped) {
      errors.push((await script.answer(2)).error);
      judge(disk, errors);
    }
    disk.close();
    if (!stopped) all.push(...script.pointsOf(1));
    const report = checkDisk(path, { repair: 'none', log: () => undefined });
    expect([report.corruptions, report.leaks], `corruptions, leaks after point ${point}`).toEqual([0, 0]);
  }
  return all.length - 1;
}

for (const subject of SUBJECTS) {
  describe(subject.name, () => {
    beforeEach(() => makeTemplate(setting.folder, subject));

    test('a write behind the end is cut off or refused when the disk shrinks meanwhile', {
      timeout: 120_000,
    }, async () => {
      const points = await everyPoint(subject.format, [write(CUT, 7), shrink], (disk, [, shrunk]) => {
        expect(shrunk).toBeNull();
        expect(disk.size()).toBe(SMALL);
        disk.resize(AGAIN);
        expect(byteAt(disk, CUT)).toBe(0);
        expect(byteAt(disk, 0)).toBe(100);
      });
      expect(points).toBeGreaterThan(0);
    });

    test('a write during a shrink is done or refused, and never comes back', { timeout: 120_000 }, async () => {
      await everyPoint(subject.format, [shrink, write(CUT, 7)], (disk, [shrunk]) => {
        expect(shrunk).toBeNull();
        disk.resize(AGAIN);
        expect(byteAt(disk, CUT)).toBe(0);
        expect(byteAt(disk, 0)).toBe(100);
      });
    });

    test('a write in front of the new end is kept during a shrink', { timeout: 120_000 }, async () => {
      await everyPoint(subject.format, [shrink, write(KEPT, 7)], (disk, errors) => {
        expect(errors).toEqual([null, null]);
        expect(byteAt(disk, KEPT)).toBe(7);
      });
    });

    test('a write is kept while the disk grows, and what grows reads as zeros', { timeout: 120_000 }, async () => {
      for (const pair of [
        [grow, write(KEPT, 7)],
        [write(KEPT, 7), grow],
      ] as const) {
        await everyPoint(subject.format, pair, (disk, errors) => {
          expect(errors).toEqual([null, null]);
          expect(disk.size()).toBe(2 * SIZE);
          expect(byteAt(disk, KEPT)).toBe(7);
          expect([byteAt(disk, SIZE), byteAt(disk, 2 * SIZE - 1)]).toEqual([0, 0]);
        });
      }
    });
  });
}
