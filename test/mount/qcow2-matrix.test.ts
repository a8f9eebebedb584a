// Every kind of qcow2 image of QEMU through a mount: it reads as QEMU reads it; what is written there, QEMU finds right,
// byte for byte and without a leak; snapshots keep their bytes.

import { execFile } from 'node:child_process';
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, test } from 'vitest';
import { firstDifference } from '../support/image-files.ts';
import {
  hasBacking,
  hasSnapshots,
  isEncrypted,
  MatrixImage,
  nameOf,
  PASSWORD,
  type Row,
  removeShared,
  rowsWith,
} from '../support/qcow2-matrix.ts';
import { hasQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { CLI } from './cli-harness.ts';

const run = promisify(execFile);
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const SNAPSHOTS = ['first', 'second'];

const rows = rowsWith(sliceOf('matrixWidths'), SEED)
  .map((row, index) => [nameOf(row), row, SEED * 1000 + index] as const)
  .filter((_, index) => (index + SEED) % sliceOf('matrixStep') === 0);

afterAll(removeShared);

// the time goes into programs that start and wait, so several rows run at once
describe.concurrent('a qcow2 image of QEMU', () => {
  test.for(rows)('%s', { timeout: 120_000 }, async ([, row, seed], context) => {
    requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
    requireOrSkip(context, hasCommand('fallocate'), 'fallocate');
    requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
    const folder = makeTemporaryDirectory();
    try {
      await bothWays(row, folder, seed);
    } finally {
      removeTemporaryDirectory(folder);
    }
  });
});

async function bothWays(row: Row, folder: string, seed: number): Promise<void> {
  const image = new MatrixImage(row, folder, seed);
  await image.make();
  const wanted = await image.content();
  const snapshots = hasSnapshots(row) ? await contents(image) : [];

  const mountpoint = join(folder, 'mnt');
  mkdirSync(mountpoint);
  const imgfuse = async (...parameters: string[]): Promise<void> => {
    const env = { ...process.env, IMGFUSE_RUNTIME_DIR: join(folder, 'run'), IMGFUSE_PASSWORD: PASSWORD };
    await run(process.execPath, [CLI, ...parameters], { env, timeout: 60_000 });
  };
  await imgfuse('mount', image.path, mountpoint, ...(isEncrypted(row) ? ['--key-env', 'IMGFUSE_PASSWORD'] : []));
  try {
    await readAndWrite(join(mountpoint, 'disk.raw'), wanted, seededRandom(seed + 500), canPunch(row));
  } finally {
    await imgfuse('unmount', mountpoint);
  }

  await image.check();
  await image.compare(wanted);
  if (hasSnapshots(row)) {
    for (const [index, content] of (await contents(image)).entries()) {
      expect(firstDifference(content, snapshots[index]!), `snapshot ${SNAPSHOTS[index]}`).toBe('none');
    }
  }
  if (row.feature !== 'raw data file') return;
  const data = await image.dataFile();
  expect(firstDifference(data.subarray(0, wanted.length), wanted)).toBe('none');
  // qemu-img makes its last cluster whole
  expect(data.subarray(wanted.length).every((byte) => byte === 0)).toBe(true);
}

async function contents(image: MatrixImage): Promise<Buffer[]> {
  const all: Buffer[] = [];
  for (const name of SNAPSHOTS) all.push(await image.content(name));
  return all;
}

/** Version 2 cannot say that a cluster of an overlay reads as zeros, so a hole there would give back no space. */
function canPunch(row: Row): boolean {
  return row.version === 3 || !hasBacking(row);
}

/** Expects `model` there, and changes both: writes of any length anywhere, holes (or their refusal), zeros. */
async function readAndWrite(path: string, model: Buffer, random: () => number, punches: boolean): Promise<void> {
  const file = openSync(path, 'r+');
  try {
    expectContent(file, model);
    for (let n = 0; n < 24; n++) {
      const at = Math.floor(random() * model.length);
      const most = Math.min(model.length - at, random() < 0.7 ? 9000 : model.length / 5);
      const length = 1 + Math.floor(random() * (most - 1));
      if (n % 12 === 10 || n % 12 === 11) {
        const how = n % 12 === 10 ? '--punch-hole' : '--zero-range';
        const done = run('fallocate', [how, '--offset', String(at), '--length', String(length), path]);
        if (how === '--punch-hole' && !punches) {
          await expect(done).rejects.toThrow('unsupported');
          continue;
        }
        await done;
        model.fill(0, at, at + length);
        continue;
      }
      const bytes = Buffer.alloc(length);
      for (let i = 0; i < length; i++) bytes[i] = at + i + n * 7;
      expect(writeSync(file, bytes, 0, length, at)).toBe(length);
      bytes.copy(model, at);
      if (n === 12) fsyncSync(file);
    }
    expectContent(file, model);
  } finally {
    closeSync(file);
  }
}

function expectContent(file: number, model: Buffer): void {
  const actual = Buffer.alloc(model.length, 0xee);
  for (let at = 0; at < actual.length; ) {
    const done = readSync(file, actual, at, actual.length - at, at);
    if (done === 0) throw new Error(`the disk ends at ${at} instead of ${actual.length}`);
    at += done;
  }
  expect(firstDifference(actual, model)).toBe('none');
}
