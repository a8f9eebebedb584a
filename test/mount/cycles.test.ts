// The promise that others break: when umount returns, the image is closed and clean, every time.

import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI } from './cli-harness.ts';

const SCRIPT = fileURLToPath(new URL('./cycles.sh', import.meta.url));
const CYCLES = Number(process.env['CYCLES'] ?? 200);

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

test(`${CYCLES} cycles of mount, write and umount are each followed by a clean qemu-img check`, {
  timeout: CYCLES * 5000,
}, (context) => {
  requireOrSkip(
    context,
    canMountAsRoot() && hasCommand('qemu-img') && hasCommand('unshare'),
    'root, /dev/fuse, unshare and qemu-img',
  );
  const { code, stdout, stderr } = bench.run('unshare', ['--mount', SCRIPT, CLI, bench.directory, String(CYCLES)], {
    timeout: CYCLES * 5000,
  });
  expect(code, stdout + stderr).toBe(0);
  expect(stdout).toContain(`${CYCLES} cycles clean`);
});
