// The end of a daemon under load (R9). SIGKILL: the dead mount goes, the next mount checks, repairs and says so, and everything
// that a completed flush covered is there; without a backing file QED and raw keep everything that was acknowledged. SIGTERM:
// no loss at all, exit code 0, a clean image. scripts/killtest.sh runs it as often as it is told to.

import { afterEach, beforeEach, expect, test } from 'vitest';
import { KINDS, type KillFigures, KillRun } from '../support/kill-run.ts';
import { seededRandom } from '../support/random.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench } from './cli-harness.ts';

const RUNS = sliceOf('kills');
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
/** Of so many runs one ends by SIGTERM. */
const TERMINATED_EVERY = 3;

const figures: KillFigures = { killed: 0, terminated: 0, blocks: 0, files: 0, repaired: 0 };
let bench: Bench;
beforeEach((context) => {
  const hasAll = canMountAsRoot() && ['fio', 'qemu-img', 'mkfs.ext4', 'e2fsck', 'losetup'].every(hasCommand);
  requireOrSkip(context, hasAll, 'root, /dev/fuse, fio, qemu-img, e2fsprogs and losetup');
  bench = new Bench();
});
afterEach(() => bench?.cleanUp());

for (let run = 0; run < RUNS; run++) {
  const random = seededRandom(SEED + run);
  const kind = KINDS[run % KINDS.length]!;
  const signal = run % TERMINATED_EVERY === TERMINATED_EVERY - 1 ? 'SIGTERM' : 'SIGKILL';
  const afterMs = Math.floor(random() * 2000);
  const workers = 1 + Math.floor(random() * 4);
  test(`run ${run + 1} of ${RUNS}, seed ${SEED}: ${kind}, ${signal} after ${afterMs} ms, ${workers} workers`, async () => {
    await new KillRun(bench, kind).run(signal, afterMs, workers, figures);
  });
}

test('the figures', () => {
  const { killed, terminated, blocks, files, repaired } = figures;
  console.log(
    `killed by SIGKILL: ${killed} (${repaired} repaired by the next mount); ended by SIGTERM: ${terminated}\n` +
      `blocks checked: ${blocks}; files of the guest checked: ${files}; ` +
      `runs in which something was lost or not clean: ${RUNS - killed - terminated}; seed ${SEED}`,
  );
  expect(killed + terminated).toBe(RUNS);
});
