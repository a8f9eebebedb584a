// fio writes checksummed blocks and reads them back, through the mount and through a loop device, on both transports.

import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { drawnFormats } from '../support/drawn-rows.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench } from './cli-harness.ts';

const SIZE = `${sliceOf('fio')}m`;
const JOBS = [
  { name: 'random 4k, depth 16', options: ['--rw=randwrite', '--bs=4k', '--iodepth=16', '--direct=1'] },
  {
    name: 'mixed sizes, unaligned',
    options: ['--rw=randwrite', '--bsrange=512-128k', '--bs_unaligned=1', '--direct=0'],
  },
  { name: 'sequential 1M', options: ['--rw=write', '--bs=1M', '--iodepth=4', '--direct=1'] },
] as const;
/** Of images whose clusters are small, so that there are many. */
const OPTIONS: Readonly<Record<string, string>> = {
  qed: 'cluster_size=16k,table_size=2',
  qcow2: 'cluster_size=16k',
  vdi: 'block_size=1M',
  vmdk: 'grain_size=64k',
  vpc: 'block_size=64k',
  vhdx: 'block_size=1M',
  parallels: 'cluster_size=64k',
};
/** Trims reach the disk as fallocate, which fuse-native does not have: its loop device announces no discard. */
const TRIM_JOB = {
  name: 'random 64k trims and writes',
  options: ['--rw=randtrimwrite', '--bs=64k', '--direct=1'],
} as const;

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

function fio(file: string, options: readonly string[]): void {
  const { code, stdout, stderr } = bench.run(
    'fio',
    [
      ...[
        '--name=verify',
        `--filename=${file}`,
        `--size=${SIZE}`,
        '--ioengine=libaio',
        '--verify=crc32c',
        '--verify_fatal=1',
      ],
      ...['--allow_file_create=0', '--fsync=64', ...options],
    ],
    { timeout: 110_000 },
  );
  expect(code, stdout + stderr).toBe(0);
}

function imgfuse(...parameters: readonly string[]): void {
  const { code, stderr } = bench.imgfuse(...parameters);
  expect(code, stderr).toBe(0);
}

/** Runs a job on the file and on a loop device over it, on a new image. */
function runJob(
  job: { readonly options: readonly string[] },
  transport: string,
  onFile: boolean,
  format = 'qed',
): void {
  const image = bench.path(`disk.${format}`);
  const at = bench.makeDirectory('mnt');
  imgfuse('create', '-f', format, '-o', OPTIONS[format]!, image, SIZE);
  imgfuse('mount', image, at, '--transport', transport);
  if (onFile) fio(`${at}/disk.raw`, job.options);
  const loop = bench.run('losetup', ['--find', '--show', '--direct-io=on', `${at}/disk.raw`]).stdout.trim();
  fio(loop, job.options);
  expect(bench.run('losetup', ['-d', loop]).code).toBe(0);
  imgfuse('unmount', at);
  bench.assertSound(image, format);
}

const HAS_ALL = canMountAsRoot() && hasCommand('fio') && hasCommand('qemu-img');

describe.each(['kernel', 'fuse-native'])('fio with checksums over the %s transport', (transport) => {
  for (const job of JOBS) {
    test(`${job.name} reads back what it wrote, and the image is clean`, (context) => {
      requireOrSkip(context, HAS_ALL, 'root, /dev/fuse, fio and qemu-img');
      runJob(job, transport, true);
    });
  }
});

test.for(
  drawnFormats(['vdi', 'vmdk', 'vpc', 'vhdx', 'parallels']),
)('mixed sizes, unaligned, read back what they wrote to a %s image, and it is clean', (format, context) => {
  requireOrSkip(context, HAS_ALL, 'root, /dev/fuse, fio and qemu-img');
  runJob(JOBS[1], 'kernel', false, format);
});

test.for(
  drawnFormats(Object.keys(OPTIONS)),
)(`${TRIM_JOB.name} on a loop device read back what they wrote to a %s image, and it is clean`, (format, context) => {
  requireOrSkip(context, HAS_ALL, 'root, /dev/fuse, fio and qemu-img');
  runJob(TRIM_JOB, 'kernel', false, format);
});
