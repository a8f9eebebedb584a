// What the tests of overlays have in common: a bench for each test, images of every format, and short names of what they run.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect } from 'vitest';
import { hasQemu, type QemuHolder, qemuIo } from '../support/qemu.ts';
import { READ_ONLY_IMAGES, writeReadOnlyImage } from '../support/read-only-images.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, lines, type Result } from './cli-harness.ts';

export const MIB = 1024 * 1024;

/** of the running test */
export let bench: Bench;
export const holders: QemuHolder[] = [];

/** For each test of the calling file: a bench with the directory mnt; what is in `holders` is killed after it. */
export function useBench(): void {
  beforeEach((context) => {
    requireOrSkip(context, canMountAsRoot() && hasQemu, 'root, /dev/fuse, qemu-img and qemu-io');
    bench = new Bench();
    bench.makeDirectory('mnt');
  });
  afterEach(async () => {
    for (const holder of holders.splice(0)) await holder.kill();
    bench?.cleanUp();
  });
}

/** Must succeed. */
export function imgfuse(...parameters: readonly string[]): Result {
  const result = bench.imgfuse(...parameters);
  expect(result.code, `imgfuse ${parameters.join(' ')}: ${result.stderr}`).toBe(0);
  return result;
}

/** Must fail with one sentence. @returns it */
export function refused(code: number, ...parameters: readonly string[]): string {
  const result = bench.imgfuse(...parameters);
  expect(result, parameters.join(' ')).toMatchObject({ code, stdout: '' });
  expect(lines(result.stderr)).toHaveLength(1);
  return result.stderr.trim();
}

/** Runs a program that must succeed. @returns its output */
export function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect(code, `${command} ${parameters.join(' ')}: ${stderr}${stdout}`).toBe(0);
  return stdout.trim();
}

/** Of a file. */
export function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

/** Writes text to the disk of a mount. */
export function write(mountpoint: string, text: string, position = 0): void {
  run(
    'sh',
    '-c',
    `printf '${text}' | dd of=${bench.path(mountpoint)}/disk.raw conv=notrunc bs=1 seek=${position} status=none`,
  );
}

/** @returns bytes of the disk of a mount */
export function read(mountpoint: string, length: number, position = 0): string {
  return readFileSync(bench.path(`${mountpoint}/disk.raw`)).toString('latin1', position, position + length);
}

/** An image of each format, with "base" at its start and data elsewhere. @returns the content of its disk */
export function makeBase(format: string, path: string): Buffer {
  const makeReadOnly = READ_ONLY_IMAGES[format];
  if (makeReadOnly !== undefined) {
    const made = makeReadOnly();
    writeReadOnlyImage(path, made);
    return made.content;
  }
  imgfuse('create', '-q', '-f', format, path, '4M');
  qemuIo(path, format, 'write -P 98 0 4k', 'write -P 7 1M 1M', 'write -P 9 3M 300k');
  const content = Buffer.alloc(4 * MIB);
  content
    .fill(98, 0, 4096)
    .fill(7, MIB, 2 * MIB)
    .fill(9, 3 * MIB, 3 * MIB + 300 * 1024);
  return content;
}

export interface OverlayJson {
  readonly filename: string | null;
  readonly temporary: boolean;
  readonly base: string;
  readonly 'allocated-size': number;
  readonly committable: boolean;
}

/** What the status of a mount says of its overlay. */
export function overlayOf(mountpoint: string): OverlayJson {
  const [status] = JSON.parse(imgfuse('status', '--output=json', mountpoint).stdout) as { overlay: OverlayJson }[];
  return status!.overlay;
}
