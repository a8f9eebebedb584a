// closeImage(): what `detach` makes of a mount process that ends while it is looked for.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { closeImage } from '../../../src/cli/attached-image.ts';
import { processStartTime } from '../../../src/host/processes.ts';
import { prepareRuntimeFiles, writeRecord } from '../../../src/mounts/runtime-directory.ts';

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'imgfuse-test-'));
  vi.stubEnv('IMGFUSE_RUNTIME_DIR', join(directory, 'run'));
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(directory, { recursive: true, force: true });
});

/** The record of a process that opens an image, and does not listen at its socket any more. */
function recordOfOpening(pid: number, mountpoint: string): void {
  const { recordPath, socketPath } = prepareRuntimeFiles();
  writeFileSync(socketPath, '');
  writeRecord(recordPath, {
    ...{ image: join(directory, 'disk.qcow2'), mountpoint, pid, processStart: processStartTime(pid)! },
    ...{ format: 'qcow2', transport: 'kernel', readOnly: false, workers: 2, log: null, opening: true },
  });
}

test('a process that was opening the image and has ended meanwhile leaves nothing to close', async () => {
  const child = spawn('sleep', ['0.3']);
  recordOfOpening(child.pid!, join(directory, 'mnt'));
  expect(await closeImage(join(directory, 'mnt'))).toBeNull();
  expect(processStartTime(child.pid!)).toBeNull();
});

test('a process that goes on without an answer is named', async () => {
  const child = spawn('sleep', ['60']);
  try {
    recordOfOpening(child.pid!, join(directory, 'mnt'));
    await expect(closeImage(join(directory, 'mnt'))).rejects.toThrow(`process ${child.pid}`);
  } finally {
    child.kill();
  }
}, 20_000);
