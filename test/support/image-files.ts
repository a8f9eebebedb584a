// Image files of tests on the host's disk: opening them in this process, comparing them, and the command line over them.

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { after, guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import { type OpenDiskOptions, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { PosixHostFile } from '../../src/host/posix-file.ts';
import { seededRandom } from './random.ts';

/** The built command line. */
export const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
/** Of a sparse giant only the two ends are compared. */
const HASHED_BYTES = 4 * 1024 * 1024;

const COPIED = Buffer.alloc(1024 * 1024);

/** Copies a file that another thread may be changing, holes as holes: an open image is extended far ahead of its data. */
export function copyData(from: string, to: string): void {
  const source = PosixHostFile.open(from, true);
  const target = PosixHostFile.create(to, true);
  try {
    const size = source.size();
    target.truncate(size);
    for (let done = 0; done < size; ) {
      const start = source.seekData(hostOffset(done));
      const end = Math.min(size, source.seekHole(hostOffset(start)));
      // the file became shorter meanwhile
      if (end <= done) break;
      for (let at = hostOffset(start); at < end; at = after(at, COPIED.length)) {
        const got = source.read(COPIED, 0, Math.min(COPIED.length, end - at), at);
        target.write(COPIED, 0, got, at);
      }
      done = end;
    }
  } finally {
    source.close();
    target.close();
  }
}

/** Length, ends and time of the last change of every file in a directory: what a failed open must leave as it is. */
export function fingerprints(directory: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (entry.isFile()) found[entry.name] = fingerprint(join(directory, entry.name));
  }
  return found;
}

function fingerprint(path: string): string {
  const file = openSync(path, 'r');
  try {
    const { size, mtimeMs } = fstatSync(file);
    const hash = createHash('sha256');
    const bytes = Buffer.alloc(Math.min(size, HASHED_BYTES));
    for (const offset of [0, size - bytes.length]) {
      readSync(file, bytes, 0, bytes.length, offset);
      hash.update(bytes);
    }
    return `${size} bytes, changed ${mtimeMs}, ${hash.digest('hex')}`;
  } finally {
    closeSync(file);
  }
}

/** Opens a disk for the time of `action`, and closes it whatever happens. */
export function withDisk<T>(path: string, options: OpenDiskOptions, action: (disk: VirtualDisk) => T): T {
  const disk = openDisk(path, options);
  let result: T;
  try {
    result = action(disk);
  } catch (error) {
    try {
      disk.close();
    } catch {
      // the first error is the one to see
    }
    throw error;
  }
  disk.close();
  return result;
}

/** Forty random changes of the disk of an image; the model follows. @param longest bytes of a few of them */
export function changeDisk(path: string, model: Buffer, seed: number, longest = 3 * 1024 * 1024): void {
  const random = seededRandom(seed);
  withDisk(path, { readOnly: false }, (disk) => {
    for (let n = 0; n < 40; n++) {
      const at = Math.floor(random() * model.length);
      const length = Math.min(model.length - at, 1 + Math.floor(random() * (random() < 0.8 ? 9000 : longest)));
      const byte = random() < 0.6 ? 1 + Math.floor(random() * 255) : 0;
      if (byte > 0) disk.write(Buffer.alloc(length, byte), 0, length, guestOffset(at));
      else if (random() < 0.5) disk.discard(at, length);
      else disk.writeZeroes(at, length);
      model.fill(byte, at, at + length);
      if (random() < 0.2) disk.flush();
    }
    expect(firstDifference(readAll(disk), model)).toBe('none');
  });
}

/** All bytes of a disk that fits into memory. */
export function readAll(disk: VirtualDisk): Buffer {
  const bytes = Buffer.alloc(disk.size(), 0xee);
  const step = 1024 * 1024;
  for (let at = 0; at < bytes.length; at += step)
    disk.read(bytes, at, Math.min(step, bytes.length - at), guestOffset(at));
  return bytes;
}

/** First difference of two arrays as a sentence, or "none"; large arrays are not printed. */
export function firstDifference(actual: Uint8Array, wanted: Uint8Array): string {
  if (actual.length !== wanted.length) return `${actual.length} bytes instead of ${wanted.length}`;
  if (Buffer.compare(actual, wanted) === 0) return 'none';
  const at = actual.findIndex((byte, i) => byte !== wanted[i]);
  return `at ${at}: ${actual[at]} instead of ${wanted[at]}`;
}

export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export function isBuilt(): boolean {
  return existsSync(CLI);
}

/** Runs the built command line. */
export function imgfuse(...args: string[]): CommandResult {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], {
    encoding: 'utf8',
    timeout: 30_000,
    cwd: '/',
  });
  return { code: status, stdout, stderr };
}
