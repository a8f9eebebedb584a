// Three groups, one after another: what needs the processors, what mounts and often waits, and what measures time.

import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { namespacePool } from './support/namespace-pool.ts';

/** More than processors: every file waits for programs, disks or timeouts, and the one that waits for the files needs no core. */
const WORKERS = Math.ceil(availableParallelism() * 1.5);

/** Measures time, or keeps every processor busy. */
const ALONE = ['test/mount/bench.test.ts', 'test/mount/soak.test.ts'];

/** Whatever else mounts. request-timeout changes a sysctl that every new mount reads, so it runs where no other file mounts. */
const MOUNTING = [
  'test/mount/!(request-timeout).test.ts',
  'test/conformance/filesystem*.test.ts',
  'test/interop/mounted-images.test.ts',
  'test/interop/lock*.test.ts',
  'test/interop/partition-contents.test.ts',
];

/** They start first in their group, or a long one is left over for one processor while the others have nothing to do. */
const LONGEST = [
  'test/mount/request-timeout.test.ts',
  'test/conformance/virtual-disk-qcow2.test.ts',
  'test/conformance/virtual-disk-virtualbox.test.ts',
  'test/interleave/every-point-others.test.ts',
  'test/interop/qcow2-random.test.ts',
  'test/model/power-cut-qcow2-features.test.ts',
  'test/model/faults.test.ts',
  'test/interop/qcow2-leaves.test.ts',
  'test/mount/qcow2-matrix.test.ts',
  'test/mount/attach-guests.test.ts',
  'test/mount/attach-program.test.ts',
  'test/mount/attach.test.ts',
  'test/mount/cycles.test.ts',
  'test/conformance/filesystem.test.ts',
  'test/mount/stress-kernel.test.ts',
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const place = LONGEST.findIndex((path) => moduleId.endsWith(`/${path}`));
      return place < 0 ? LONGEST.length : place;
    };
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    testTimeout: 240_000,
    hookTimeout: 120_000,
    pool: namespacePool,
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        extends: true,
        test: {
          name: 'engine',
          include: ['test/**/*.test.ts'],
          exclude: MOUNTING,
          maxWorkers: WORKERS,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'mounting',
          include: MOUNTING,
          exclude: ALONE,
          maxWorkers: WORKERS,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'alone',
          include: ALONE,
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
