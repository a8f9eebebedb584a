// What a program has stored in the disk through a shared mapping, and not synced, when the mount is told to end: it is in the
// image, whether or not the file it came from is still open.

import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf, outlives } from './cli-harness.ts';

const SIZE = 16 * 1024 * 1024;
const PROGRAM = `
import mmap, os, sys, time
file = os.open('mnt/disk.raw', os.O_RDWR)
mapped = mmap.mmap(file, ${SIZE})
if sys.argv[1] == 'closed': os.close(file)
for at in range(0, ${SIZE}, 4096): mapped[at:at + 6] = b'mapped'
print('stored', flush=True)
time.sleep(60)
`;

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  requireOrSkip(context, hasCommand('python3'), 'python3, for a shared mapping');
  bench = new Bench();
  bench.makeDirectory('mnt');
});
afterEach(() => bench?.cleanUp());

it.each(['open', 'closed'])('is written back before a mount in use is detached (file %s)', async (file) => {
  expect(bench.imgfuse('create', '-q', '-f', 'qcow2', 'a.qcow2', `${SIZE}`)).toMatchObject({ code: 0 });
  expect(bench.imgfuse('mount', 'a.qcow2', 'mnt')).toMatchObject({ code: 0 });
  const pid = bench.daemonPid();
  const user = spawn('python3', ['-c', PROGRAM, file], { cwd: bench.directory, stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    await new Promise((resolve) => user.stdout.once('data', resolve));
    process.kill(pid, 'SIGTERM');
    expect(await outlives(pid, 20_000)).toBe(false);
  } finally {
    user.kill('SIGKILL');
    await exitOf(user);
  }
  expect(bench.imgfuse('mount', '-o', 'ro', 'a.qcow2', 'mnt')).toMatchObject({ code: 0, stderr: '' });
  const disk = readFileSync(bench.path('mnt/disk.raw'));
  for (let at = 0; at < SIZE; at += 4096) expect(disk.toString('latin1', at, at + 6), `at ${at}`).toBe('mapped');
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });
});
