// The promise of attach and detach, many times over and whatever is killed: no loop device, mount or process is left after a
// detach, and the guest's file system is sound.

import { afterEach, beforeEach, expect, test } from 'vitest';
import { AttachRun, FATES, type Fate, type Guest } from '../support/attach-run.ts';
import { seededRandom } from '../support/random.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench } from './cli-harness.ts';

const CYCLES = sliceOf('attachCycles');
const KILLS = sliceOf('attachKills');
const SEED = Number(process.env['SEED'] ?? Date.now() % 30_000);
/** at most, on a machine full of other work */
const RUN_MS = 30_000;
const TOOLS = ['sfdisk', 'losetup', 'mkfs.ext4', 'mkfs.xfs', 'mkfs.btrfs', 'qemu-img'];
const KINDS: readonly (readonly [Guest, string])[] = [
  ['ext4', 'qcow2'],
  ['xfs', 'qed'],
  ['btrfs', 'qcow2'],
  ['ext4', 'vdi'],
  ['xfs', 'vpc'],
  ['ext4', 'vmdk'],
  ['ext4', 'vhdx'],
  ['btrfs', 'parallels'],
];

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

function runsOf(count: number): AttachRun[] {
  const kinds = Array.from({ length: Math.min(count, KINDS.length) }, (_, i) => KINDS[(SEED + i) % KINDS.length]!);
  return kinds.map(([type, format]) => new AttachRun(bench, type, format));
}

test(`${CYCLES} cycles of attach, write and detach leave nothing and a sound file system`, {
  timeout: (CYCLES + KINDS.length) * RUN_MS,
}, (context) => {
  requireOrSkip(context, canMountAsRoot() && TOOLS.every(hasCommand), `root, /dev/fuse, ${TOOLS.join(', ')}`);
  const runs = runsOf(CYCLES);
  for (let cycle = 0; cycle < CYCLES; cycle++) runs[cycle % runs.length]!.cycle(`file-${cycle}`);
  for (const run of runs) run.assertSound();
  console.log(`attach cycles: ${CYCLES}; something left: 0`);
});

test(`${KILLS} kills at random moments leave nothing after a detach, and no damage`, {
  timeout: (KILLS + KINDS.length) * RUN_MS,
}, async (context) => {
  requireOrSkip(context, canMountAsRoot() && TOOLS.every(hasCommand), `root, /dev/fuse, ${TOOLS.join(', ')}`);
  const random = seededRandom(SEED);
  const runs = runsOf(KILLS);
  for (const [index, run] of runs.entries()) run.cycle(`first-${index}`);
  const counts = new Map<Fate, number>();
  for (let index = 0; index < KILLS; index++) {
    const fate = FATES[index % FATES.length]!;
    const moment = random();
    counts.set(fate, (counts.get(fate) ?? 0) + 1);
    try {
      await runs[Math.floor(random() * runs.length)]!.suffer(fate, moment, `file-${index}`);
    } catch (error) {
      throw new Error(`run ${index}, ${fate} at ${moment.toFixed(3)}, seed ${SEED}`, { cause: error });
    }
  }
  for (const run of runs) run.assertSound();
  expect([...counts.values()].reduce((sum, count) => sum + count, 0)).toBe(KILLS);
  const what = [...counts].map(([fate, count]) => `${fate} ${count}`).join(', ');
  const takenBack = runs.reduce((sum, run) => sum + run.takenBack, 0);
  expect(takenBack).toBeGreaterThan(0);
  console.log(
    `attach kills: ${KILLS} (${what}); taken back by detach: ${takenBack}; something left then: 0; seed ${SEED}`,
  );
});
