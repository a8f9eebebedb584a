// Tests that mount share kernel objects (loop devices, the mount table), so their files run one after another, and after all
// others, which run side by side.
import { defineConfig } from 'vitest/config';

/** Whatever mounts, or measures time. */
const MOUNTING = [
  'test/mount/**/*.test.ts',
  'test/conformance/filesystem*.test.ts',
  'test/interop/mounted-images.test.ts',
  'test/interop/lock*.test.ts',
  'test/unit/commands/**/*.test.ts',
  'test/unit/fuse/**/*.test.ts',
];

export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'engine',
          include: ['test/**/*.test.ts'],
          exclude: MOUNTING,
          // these need no core of their own for the one that waits for them
          maxWorkers: '100%',
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: { name: 'mounting', include: MOUNTING, fileParallelism: false, sequence: { groupOrder: 1 } },
      },
    ],
  },
});
