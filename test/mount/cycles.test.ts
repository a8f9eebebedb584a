// The promise that others break: when umount returns, the image is closed and clean, every time.

import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench, CLI } from './cli-harness.ts';

const SCRIPT = fileURLToPath(new URL('./cycles.sh', import.meta.url));
const CYCLES = sliceOf('cycles');
/** at most, on a machine full of other work */
const CYCLE_MS = 15_000;
const SEED = Number(process.env['SEED'] ?? Date.now() % 30_000);

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

test(`${CYCLES} cycles of mount, write and umount are each followed by a clean qemu-img check`, {
  timeout: CYCLES * CYCLE_MS,
}, (context) => {
  requireOrSkip(
    context,
    canMountAsRoot() && hasCommand('qemu-img') && hasCommand('unshare'),
    'root, /dev/fuse, unshare and qemu-img',
  );
  const parameters = [SCRIPT, CLI, bench.directory, String(CYCLES), String(SEED)];
  const { code, stdout, stderr } = bench.run('unshare', ['--mount', ...parameters], { timeout: CYCLES * CYCLE_MS });
  expect(code, stdout + stderr).toBe(0);
  expect(stdout).toContain(`${CYCLES} cycles clean`);
  console.log(`cycles of mount, write, umount, qemu-img check: ${CYCLES}; not clean: 0; seed ${SEED}`);
});
