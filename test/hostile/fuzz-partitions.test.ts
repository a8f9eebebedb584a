// A slice of scripts/fuzz.sh --format partitions: damaged partition tables, and damaged file systems in the partitions.
// SEED chooses others, FUZZ_FIRST the number of a single mutant to run again.

import { beforeEach, expect, test } from 'vitest';
import { fuzzPartitions, type PartitionFigures } from '../support/fuzz-partitions.ts';
import { isBuilt } from '../support/image-files.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const FIRST = Number(process.env['FUZZ_FIRST'] ?? 0);
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

beforeEach((context) => {
  requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
});

test(`damaged tables show what is sane, in few reads, and throw nothing (seed ${SEED})`, {
  timeout: 24 * 3_600_000,
}, async () => {
  const folder = makeTemporaryDirectory();
  let figures: PartitionFigures;
  try {
    figures = await fuzzPartitions(sliceOf('fuzzPartitions'), SEED, folder, FIRST);
  } finally {
    removeTemporaryDirectory(folder);
  }
  const { mutants, tables, partitions, contents, hangs, crashes, slowestMs, peakBytes, cpuSeconds, findings } = figures;
  console.log(
    `partitions: ${mutants} mutants, ${tables} with a table, ${partitions} partitions, ${contents} contents recognized, ${crashes} crashes, ` +
      `${hangs} hangs over 2 s (slowest ${slowestMs} ms), ${findings.length} findings, peak ${Math.ceil(peakBytes / 2 ** 20)} MiB, ` +
      `${Math.round(cpuSeconds)} s of CPU time (seed ${SEED}, mutants ${FIRST} to ${FIRST + mutants - 1})`,
  );
  expect(findings.slice(0, 20)).toEqual([]);
  expect(tables).toBeGreaterThan(0);
  expect(contents).toBeGreaterThan(0);
});
