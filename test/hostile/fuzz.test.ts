// A slice of scripts/fuzz.sh: damaged images of every format through everything that reads or repairs them.
// FUZZ_FORMAT and SEED choose others, FUZZ_FIRST the number of a single mutant to run again.

import { beforeEach, expect, test } from 'vitest';
import { formatByName, formats } from '../../src/disk/registry.ts';
import { FUZZED_FORMATS, type FuzzFigures, fuzz } from '../support/fuzz.ts';
import { isBuilt } from '../support/image-files.ts';
import { hasQemu } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const FIRST = Number(process.env['FUZZ_FIRST'] ?? 0);
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const FORMAT = process.env['FUZZ_FORMAT'] ?? '';

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
});

test('every format is fuzzed', () => {
  expect([...FUZZED_FORMATS].sort()).toEqual(formats.map(({ name }) => name).sort());
});

// each has a process of its own
test.concurrent.each(
  FUZZED_FORMATS.filter((format) => format.startsWith(FORMAT)),
)(`damaged images of %s are refused, read or repaired, and nothing else (seed ${SEED})`, {
  timeout: 24 * 3_600_000,
}, async (format) => {
  const folder = makeTemporaryDirectory();
  let figures: FuzzFigures;
  try {
    figures = await fuzz(format, sliceOf('fuzz', format), SEED, folder, FIRST);
  } finally {
    removeTemporaryDirectory(folder);
  }
  const {
    mutants,
    distinct,
    openedToRead,
    openedForWriting,
    repaired,
    hangs,
    crashes,
    slowestMs,
    peakBytes,
    cpuSeconds,
    findings,
  } = figures;
  console.log(
    `${format}: ${mutants} mutants, ${distinct} of them distinct, ${openedForWriting} opened for writing, ${repaired} repaired in one pass, ${crashes} crashes, ` +
      `${hangs} hangs over 2 s (slowest ${slowestMs} ms), ${findings.length} findings, peak ${Math.ceil(peakBytes / 2 ** 20)} MiB, ` +
      `${Math.round(cpuSeconds)} s of CPU time (seed ${SEED}, mutants ${FIRST} to ${FIRST + mutants - 1})`,
  );
  expect(findings.slice(0, 20)).toEqual([]);
  expect(openedToRead).toBeGreaterThan(0);
  if (formatByName(format).can.write) expect(openedForWriting).toBeGreaterThan(0);
});
