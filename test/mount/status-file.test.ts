// status.json in a real mount: the words of `imgfuse status --output=json`, with the partitions of the disk, for each opening anew.

import { spawnSync } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fuseNativeAvailable } from '../../src/fuse/fuse-native-package.ts';
import { mbrSector } from '../support/partition-bytes.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench } from './cli-harness.ts';

interface Status {
  readonly state: string;
  readonly partitions: { number: number; content: { type: string; label: string | null } | null }[];
  readonly table: { scheme: string | null; warnings: string[] };
  readonly content?: { type: string } | null;
  readonly requests: Record<string, number>;
}

let bench: Bench;
let file: string;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  file = bench.path('mnt/status.json');
  expect(bench.imgfuse('create', '-f', 'qcow2', 'a.qcow2', '64M').code).toBe(0);
});
afterEach(() => bench?.cleanUp());

function mount(...options: readonly string[]): void {
  expect(bench.imgfuse('mount', 'a.qcow2', 'mnt', ...options)).toEqual({ code: 0, stdout: '', stderr: '' });
}

function sfdisk(script: string): void {
  const made = spawnSync('sfdisk', ['--quiet', bench.path('mnt/disk.raw')], { input: script, encoding: 'utf8' });
  expect(made).toMatchObject({ status: 0 });
}

/** In another process, as users do. */
function read(): Status {
  return JSON.parse(bench.run('cat', [file]).stdout) as Status;
}

describe.each(['kernel', 'fuse-native'])('over %s', (transport) => {
  it('says what status says, whatever program reads it', (context) => {
    if (transport === 'fuse-native') requireOrSkip(context, fuseNativeAvailable(), 'fuse-native and libfuse.so.2');
    requireOrSkip(context, ['sfdisk', 'mkfs.ext4', 'mkswap', 'jq'].every(hasCommand), 'sfdisk, mkfs.ext4, mkswap, jq');
    mount('--transport', transport);
    sfdisk('label: gpt\nsize=10M, name="röot"\nsize=10M\nsize=10M\n');
    bench.run('mkfs.ext4', ['-q', '-L', 'root', bench.path('mnt/partitions/1.raw')]);
    bench.run('mkswap', [bench.path('mnt/partitions/2.raw')]);
    const { requests: _requests, ...told } = read();
    const [asked] = JSON.parse(bench.imgfuse('status', '--output=json', 'mnt').stdout) as Status[];
    expect(asked).toMatchObject({ ...told, requests: expect.any(Object) });
    expect(told.table).toEqual({
      scheme: 'gpt',
      'sector-size': 512,
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      warnings: [],
    });
    expect(told.partitions).toMatchObject([
      { number: 1, start: 1024 ** 2, size: 10 * 1024 ** 2, 'type-name': 'Linux filesystem', name: 'röot' },
      { number: 2, name: null, content: { type: 'swap', label: null } },
      { number: 3, content: null },
    ]);
    expect(told.partitions[0]!.content).toEqual({ type: 'ext4', label: 'root', uuid: expect.any(String) });
    expect(told.state).toBe('mounted');
    expect(bench.run('jq', ['.partitions[0].content.type', file]).stdout).toBe('"ext4"\n');
    expect(bench.run('cp', [file, bench.path('copy.json')]).code).toBe(0);
    expect(JSON.parse(readFileSync(bench.path('copy.json'), 'utf8'))).toMatchObject({ table: told.table });
    const text = bench.imgfuse('status', 'mnt').stdout;
    expect(text).toMatch(/^PARTITION +START +SIZE +TYPE +NAME +CONTENT$/m);
    expect(text).toMatch(/^1\.raw +1048576 +10 MiB +Linux filesystem +röot +ext4 "root"$/m);
    expect(bench.imgfuse('status').stdout).not.toContain('1.raw');
    expect(bench.imgfuse('unmount', 'mnt')).toEqual({ code: 0, stdout: '', stderr: '' });
  });
});

it('is asked of blkid, too, where our own table of contents knows nothing', (context) => {
  requireOrSkip(context, ['sfdisk', 'mkfs.minix', 'blkid'].every(hasCommand), 'sfdisk, mkfs.minix, blkid');
  // one thread: blkid reads the disk through it
  mount('--workers', '1');
  sfdisk('size=10M\n');
  bench.run('mkfs.minix', [bench.path('mnt/partitions/1.raw')]);
  expect(read().partitions[0]!.content).toMatchObject({ type: 'minix' });
});

it('stays as it is while it is open, however often it is read', () => {
  mount();
  const fd = openSync(file, 'r');
  const bytes = Buffer.alloc(65536);
  const length = readSync(fd, bytes, 0, bytes.length, 0);
  const first = bytes.toString('utf8', 0, length);
  statSync(bench.path('mnt/disk.raw'));
  expect(read().requests['GETATTR']).toBeGreaterThan((JSON.parse(first) as Status).requests['GETATTR'] ?? 0);
  expect(bytes.toString('utf8', 0, readSync(fd, bytes, 0, 7, 3))).toBe(first.slice(3, 10));
  expect(readSync(fd, bytes, 0, bytes.length, length)).toBe(0);
  closeSync(fd);
});

it.each([
  'kernel',
  'fuse-native',
])('has the size 0 of a file whose content is made when it is opened, and cannot be written (%s)', (transport) => {
  mount('--transport', transport);
  expect(statSync(file)).toMatchObject({ size: 0, blocks: 0, nlink: 1, mode: 0o100400 });
  for (const flags of ['r+', 'w', 'a']) expect(() => openSync(file, flags), flags).toThrow('EPERM');
  expect(() => writeFileSync(file, '')).toThrow('EPERM');
  expect(read().state).toBe('mounted');
});

it.each([
  '1',
  '4',
])('is opened by many at once with %s threads, and an unmount waits for none of them', async (workers) => {
  mount('--workers', workers);
  const script = 'for i in $(seq 30); do cat "$0" & done | jq -s length; wait';
  expect(bench.run('sh', ['-c', script, file]).stdout.trim()).toBe('30');
  const readers = bench.run('sh', [
    '-c',
    '(while cat "$0"; do :; done) >/dev/null 2>&1 & sleep 0.3; umount -l "$1"; wait',
    file,
    bench.path('mnt'),
  ]);
  expect(readers.code).toBe(0);
});

it('tells of a disk without a table what it contains as a whole, and of a damaged table what is wrong', (context) => {
  requireOrSkip(context, ['sfdisk', 'mkfs.ext4'].every(hasCommand), 'sfdisk, mkfs.ext4');
  mount();
  bench.run('mkfs.ext4', ['-q', bench.path('mnt/disk.raw')]);
  expect(read()).toMatchObject({ table: { scheme: null, warnings: [] }, partitions: [], content: { type: 'ext4' } });
  expect(bench.imgfuse('status', 'mnt').stdout).toMatch(/^partition table: +none; the disk contains ext4$/m);
  sfdisk('label: gpt\nsize=10M\n');
  const fd = openSync(bench.path('mnt/disk.raw'), 'r+');
  writeSync(fd, Buffer.alloc(512), 0, 512, 512);
  closeSync(fd);
  const damaged = read();
  expect(damaged.partitions).toHaveLength(1);
  expect(damaged.table.warnings.join()).toContain('backup');
  readdirSync(bench.path('mnt/partitions'));
  const [asked] = JSON.parse(bench.imgfuse('status', '--output=json', 'mnt').stdout) as { log: string }[];
  expect(readFileSync(asked!.log, 'utf8')).toMatch(
    /warning: the primary GPT is damaged \(.*\); its backup at 0x[0-9a-f]+ is used\n/,
  );
  expect(bench.imgfuse('status', 'mnt').stdout).toContain(damaged.table.warnings[0]);
});

it('says so while the files of partitions are those of an older table', () => {
  mount();
  const slot = { type: 0x83, start: 2048, size: 20_480 };
  const disk = openSync(bench.path('mnt/disk.raw'), 'r+');
  writeSync(disk, mbrSector([slot]), 0, 512, 0);
  const part = openSync(bench.path('mnt/partitions/1.raw'), 'r');
  writeSync(disk, mbrSector([{ ...slot, size: 40_960 }]), 0, 512, 0);
  expect(read().table.warnings.join()).toContain('partitions/ follows when none of its files is open');
  expect(statSync(bench.path('mnt/partitions/1.raw')).size).toBe(10 * 1024 ** 2);
  closeSync(part);
  expect(read().table.warnings).toEqual([]);
  expect(statSync(bench.path('mnt/partitions/1.raw')).size).toBe(20 * 1024 ** 2);
  closeSync(disk);
});

it('is not in the way of the end: a mount that was asked closes as fast and as clean as any other', () => {
  mount();
  read();
  const before = performance.now();
  expect(bench.imgfuse('unmount', 'mnt')).toEqual({ code: 0, stdout: '', stderr: '' });
  expect(performance.now() - before).toBeLessThan(5000);
});

it('answers for the disk of after a remount', () => {
  expect(bench.imgfuse('mount', 'a.qcow2', 'mnt', '-o', 'ro,share').code).toBe(0);
  expect(read()).toMatchObject({ 'read-only': true, partitions: [] });
  expect(bench.imgfuse('remount', '-o', 'rw', 'mnt').code).toBe(0);
  expect(read()).toMatchObject({ 'read-only': false, partitions: [] });
  expect(bench.imgfuse('remount', '-o', 'ro', 'mnt').code).toBe(0);
  expect(read()).toMatchObject({ 'read-only': true, partitions: [] });
});
