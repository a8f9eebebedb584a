// imgfuse commit at the command line: what it prints, what keeps it out, an interruption and a full host on the way, and a guest's
// file system that went through an overlay.

import { readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { drawnRows } from '../support/drawn-rows.ts';
import { withDisk } from '../support/image-files.ts';
import { qemuCheck, qemuIo } from '../support/qemu.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { exitOf } from './cli-harness.ts';
import { bench, imgfuse, makeBase, read, refused, run, sha256, useBench, write } from './overlay-scene.ts';

useBench();

const MIB = 1024 * 1024;

test('what a mount put into an overlay goes into its base, and each step says what to do next', () => {
  const base = bench.path('base.qcow2');
  const overlay = bench.path('changes.qcow2');
  makeBase('qcow2', base);
  imgfuse('mount', '-o', 'overlay=changes.qcow2', base, 'mnt');
  write('mnt', 'changed');
  expect(refused(1, 'commit', overlay)).toMatch(/changes\.qcow2 is in use by/);
  const { stdout } = imgfuse('unmount', 'mnt');
  expect(stdout).toBe(
    `changes are kept in ${overlay} (64 KiB); "imgfuse commit ${overlay}" writes them into ${base}\n`,
  );
  imgfuse('mount', '-o', 'ro', base, 'mnt');
  expect(refused(1, 'commit', overlay)).toMatch(/base\.qcow2 is in use by/);
  imgfuse('unmount', 'mnt');
  const kept = JSON.parse(imgfuse('commit', '-d', '--output=json', 'changes.qcow2').stdout) as unknown;
  expect(kept).toEqual({
    filename: 'changes.qcow2',
    base,
    'virtual-size': 4 * MIB,
    'data-size': 65536,
    'zero-size': 0,
    emptied: false,
  });
  expect(imgfuse('commit', 'changes.qcow2').stdout).toMatch(
    /^Image committed\.\n.*base\.qcow2 has the changes, changes\.qcow2 is empty; other overlays on .* show a mixture now, or are refused\n$/,
  );
  expect(imgfuse('commit', '-q', 'changes.qcow2')).toMatchObject({ stdout: '', stderr: '' });
  imgfuse('mount', '-o', 'ro', base, 'mnt');
  expect(read('mnt', 7)).toBe('changed');
  imgfuse('unmount', 'mnt');
  for (const image of [base, overlay]) qemuCheck(image, 'qcow2');
  expect(refused(1, 'commit', base)).toMatch(/has no backing file, or none that can be found/);
  expect(refused(1, 'commit', 'nowhere.qcow2')).toMatch(/does not exist/);
  expect(refused(1, 'commit')).toMatch(/OVERLAY is missing/);
  // what cannot be committed is not told to be
  makeBase('bochs', bench.path('disk.bochs'));
  imgfuse('mount', '-o', 'overlay=b.qcow2', 'disk.bochs', 'mnt');
  expect(imgfuse('unmount', 'mnt').stdout).toBe(`changes are kept in ${bench.path('b.qcow2')} (0 B)\n`);
});

/** An empty image over an empty base. @returns both */
function pair(overlayFormat: string, baseFormat: string, size: string, folder = ''): { base: string; over: string } {
  const base = bench.path(`${folder}base.${baseFormat}`);
  const over = bench.path(`over.${overlayFormat}`);
  imgfuse('create', '-q', '-f', baseFormat, base, size);
  // a VDI finds its parent in its own folder only, and names it by a UUID
  const quiet = overlayFormat === 'vdi' ? [] : ['-q'];
  imgfuse('create', ...quiet, '-f', overlayFormat, '-b', base, '-F', baseFormat, over);
  return { base, over };
}

/** Writes to an overlay, which QEMU cannot do to a VDI, VHD or VHDX with a parent. */
function change(
  over: string,
  changes: readonly (readonly [value: number, at: number, length: number])[],
  allowBacking: readonly string[] = [],
): void {
  withDisk(over, { readOnly: false, allowBacking }, (disk) => {
    for (const [value, at, length] of changes)
      for (let done = 0; done < length; done += MIB) {
        const part = Math.min(MIB, length - done);
        disk.write(new Uint8Array(part).fill(value), 0, part, guestOffset(at + done));
      }
  });
}

function expectSound(image: string, format: string): void {
  if (format === 'raw') return;
  if (format === 'vpc' || basename(image).startsWith('over.v')) imgfuse('check', image);
  else qemuCheck(image, format);
}

const PAIRS = [
  ['qcow2', 'raw'],
  ['vdi', 'vdi'],
  ['vpc', 'vpc'],
  ['vhdx', 'vhdx'],
] as const;

describe('interrupted', () => {
  test.each(
    drawnRows([
      ['SIGINT', ...PAIRS[0]],
      ['SIGTERM', ...PAIRS[0]],
      ['SIGINT', ...PAIRS[1]],
      ['SIGTERM', ...PAIRS[2]],
      ['SIGTERM', ...PAIRS[3]],
    ] as const),
  )('by %s, %s into %s ends in good order, and goes on when it is run again', async (signal, format, below) => {
    const { base, over } = pair(format, below, '200M');
    change(over, [[7, 0, 160 * MIB]]);
    const wanted = ['read -P 7 0 160M', 'read -P 0 160M 40M'];
    const start = Number(run('stat', '-c', '%b', base));
    const child = bench.start('commit', over);
    // it has begun when the base has data
    while (Number(run('stat', '-c', '%b', base)) < start + 2048 && child.exitCode === null) await delay(5);
    child.kill(signal);
    const code = await exitOf(child);
    expect([signal === 'SIGINT' ? 130 : 143, 0]).toContain(code);
    if (code !== 0) expect(child.output()).toMatch(/interrupted: nothing is lost; run the same command again/);
    expectSound(over, format);
    expectSound(base, below);
    if (format === 'qcow2') qemuIo(over, format, ...wanted);
    imgfuse('commit', over);
    qemuIo(base, below, ...wanted);
    expectSound(over, format);
    expectSound(base, below);
  });

  test.each(
    drawnRows([
      ['qcow2', 'qed'],
      ['qcow2', 'vdi'],
      ['vdi', 'vdi'],
      ['qcow2', 'vpc'],
      ['vpc', 'vpc'],
      ['vhdx', 'vhdx'],
    ] as const),
  )('by SIGKILL, again and again, %s into %s loses nothing', async (format, below) => {
    const { base, over } = pair(format, below, '100M');
    change(over, [
      [7, 0, 30 * MIB],
      [0, 40 * MIB, 10 * MIB],
      [8, 60 * MIB, 30 * MIB],
    ]);
    for (const delayMs of [200, 300, 400]) {
      const child = bench.start('commit', over);
      await delay(delayMs);
      child.kill('SIGKILL');
      await exitOf(child);
      imgfuse('mount', '-o', 'ro', over, 'mnt');
      const disk = readFileSync(bench.path('mnt/disk.raw'));
      for (const [at, value] of [
        [0, 7],
        [30 * MIB - 1, 7],
        [45 * MIB, 0],
        [90 * MIB - 1, 8],
        [95 * MIB, 0],
      ] as const) {
        expect(disk[at], `at ${at} after ${delayMs} ms`).toBe(value);
      }
      imgfuse('unmount', 'mnt');
    }
    imgfuse('commit', over);
    expectSound(base, below);
    expectSound(over, format);
    qemuIo(base, below, 'read -P 7 0 30M', 'read -P 0 30M 30M', 'read -P 8 60M 30M', 'read -P 0 90M 10M');
  });
});

test.each(
  drawnRows(PAIRS),
)('a full host stops a commit of %s into %s, the overlay keeps everything, and it is completed when there is space', (format, below) => {
  const small = bench.makeDirectory('small');
  run('mount', '-t', 'tmpfs', '-o', 'size=3M', 'tmpfs', small);
  const { base, over } = pair(format, below, '8M', 'small/');
  change(over, [[5, MIB, 4 * MIB]], [small]);
  const allowed = ['--allow-backing', small];
  const pattern = new RegExp(`small/base\\.${below} .*the host file system is full`);
  expect(refused(1, 'commit', ...allowed, over)).toMatch(pattern);
  imgfuse('mount', ...allowed, '-o', 'ro', over, 'mnt');
  const disk = readFileSync(bench.path('mnt/disk.raw'));
  imgfuse('unmount', 'mnt');
  expect(disk.equals(Buffer.concat([Buffer.alloc(MIB), Buffer.alloc(4 * MIB, 5), Buffer.alloc(3 * MIB)]))).toBe(true);
  run('mount', '-o', 'remount,size=20M', small);
  imgfuse('commit', ...allowed, over);
  qemuIo(base, below, 'read -P 0 0 1M', 'read -P 5 1M 4M', 'read -P 0 5M 3M');
  expectSound(base, below);
  run('umount', small);
});

test("a guest's ext4 that was changed through an overlay is clean in the base", (context) => {
  requireOrSkip(context, hasCommand('mkfs.ext4'), 'mkfs.ext4');
  const base = bench.path('base.qed');
  imgfuse('create', '-q', '-f', 'qed', base, '64M');
  imgfuse('mount', base, 'mnt');
  run('mkfs.ext4', '-q', '-F', bench.path('mnt/disk.raw'));
  imgfuse('unmount', 'mnt');
  const before = sha256(base);
  const guest = bench.makeDirectory('guest');
  imgfuse('mount', '-o', 'overlay=o.qcow2', base, 'mnt');
  run('mount', '-o', 'loop', bench.path('mnt/disk.raw'), guest);
  run('dd', 'if=/dev/zero', `of=${guest}/doomed`, 'bs=1M', 'count=20', 'conv=fsync', 'status=none');
  run('rm', `${guest}/doomed`);
  run('cp', base, `${guest}/kept`);
  run('fstrim', guest);
  run('umount', guest);
  imgfuse('unmount', 'mnt');
  expect(sha256(base)).toBe(before);
  const kept = sha256(base);
  imgfuse('commit', 'o.qcow2');
  qemuCheck(base, 'qed');
  imgfuse('mount', base, 'mnt');
  run('e2fsck', '-f', '-n', bench.path('mnt/disk.raw'));
  run('mount', '-o', 'loop,ro', bench.path('mnt/disk.raw'), guest);
  expect(readdirSync(guest).sort()).toEqual(['kept', 'lost+found']);
  expect(sha256(`${guest}/kept`)).toBe(kept);
  run('umount', guest);
  imgfuse('unmount', 'mnt');
});

test.each(
  drawnRows([
    ['vdi', 'UUIDs', 'knows its parent by UUIDs'],
    ['vmdk', 'a CID', 'knows its parent by a CID'],
    ['vhdx', 'a GUID', 'the backing file of a VHDX image is vhdx'],
  ] as const),
)('a %s that knows its base by %s is committed, rebased, and cut off from it, and QEMU reads what is left', (format, _, refusal) => {
  const [base, child, other] = ['base', 'child', 'other'].map((name) => `${name}.${format}`) as [
    string,
    string,
    string,
  ];
  makeBase(format, bench.path(base));
  for (const overlay of [child, other])
    imgfuse('create', '-q', '-f', format, '-b', bench.path(base), '-F', format, overlay);
  imgfuse('mount', child, 'mnt');
  write('mnt', 'changed');
  imgfuse('unmount', 'mnt');
  const { stdout } = imgfuse('commit', child);
  expect(stdout).toMatch(new RegExp(`^Image committed\\.\\n.*${base} has the changes, ${child} is empty`));
  qemuCheck(bench.path(base), format);
  expect(refused(1, 'mount', '-o', 'ro', other, 'mnt')).toMatch(/is not the image that .*other\.v\w+ was made on/);
  for (const text of ['again', 'AGAIN']) {
    imgfuse('mount', child, 'mnt');
    expect(read('mnt', 7)).toMatch(/^(changed|again)/);
    write('mnt', text);
    imgfuse('unmount', 'mnt');
  }
  imgfuse('create', '-q', '-f', format, `new.${format}`, '4M');
  for (const name of [`new.${format}`, '']) {
    imgfuse('rebase', '-b', name, child);
    imgfuse('mount', '-o', 'ro', child, 'mnt');
    expect(read('mnt', 7)).toBe('AGAINed');
    expect(read('mnt', 2, MIB)).toBe('\x07\x07');
    imgfuse('unmount', 'mnt');
  }
  qemuCheck(bench.path(child), format);
  qemuIo(bench.path(child), format, 'read -P 7 1M 1M', 'read -P 9 3M 300k');
  expect(refused(1, 'rebase', '-b', 'base.raw', '-F', 'raw', '-u', child)).toMatch(refusal);
});

test('a VHD that knows its base by a UUID and a name is committed, rebased, and cut off from it, and QEMU reads what is left', () => {
  const base = bench.path('base.vhd');
  const [child, other] = [bench.path('child.vhd'), bench.path('other.vhd')];
  makeBase('vpc', base);
  for (const name of [child, other]) imgfuse('create', '-q', '-f', 'vhd', '-b', base, '-F', 'vhd', name);
  for (const text of ['changed', 'again', 'AGAIN']) {
    imgfuse('mount', child, 'mnt');
    write('mnt', text);
    imgfuse('unmount', 'mnt');
    expect(imgfuse('commit', child)).toMatchObject({
      stdout: expect.stringMatching(
        /base\.vhd has the changes, .*child\.vhd is empty; other overlays on .* show a mixture/,
      ),
    });
    imgfuse('check', base);
    qemuIo(base, 'vpc', 'read -P 7 1M 1M', 'read -P 9 3M 300k');
  }
  const { stderr } = imgfuse('mount', '-o', 'ro', other, 'mnt');
  expect(stderr).toMatch(/base\.vhd .*changed/);
  expect(read('mnt', 7)).toBe('AGAINed');
  imgfuse('unmount', 'mnt');
  imgfuse('mount', child, 'mnt');
  write('mnt', 'own');
  imgfuse('unmount', 'mnt');
  imgfuse('create', '-q', '-f', 'vpc', 'new.vhd', '4M');
  for (const name of ['new.vhd', '']) {
    imgfuse('rebase', '-b', name, child);
    imgfuse('mount', '-o', 'ro', child, 'mnt');
    expect(read('mnt', 7)).toBe('ownINed');
    expect(read('mnt', 2, MIB)).toBe('\x07\x07');
    imgfuse('unmount', 'mnt');
  }
  imgfuse('check', child);
  qemuIo(child, 'vpc', 'read -P 7 1M 1M', 'read -P 9 3M 300k');
});

test('rebase gives an overlay another base at the command line, and says what it did', () => {
  makeBase('qcow2', bench.path('base.qcow2'));
  imgfuse('mount', '-o', 'overlay=o.qcow2', 'base.qcow2', 'mnt');
  write('mnt', 'changed');
  expect(refused(1, 'rebase', '-b', '', 'o.qcow2')).toMatch(/o\.qcow2 is in use by/);
  imgfuse('unmount', 'mnt');
  run('cp', 'base.qcow2', 'moved.qcow2');
  const { stdout } = imgfuse('rebase', '-u', '-b', 'moved.qcow2', 'o.qcow2');
  expect(stdout).toBe('Image rebased: o.qcow2 has the backing file moved.qcow2 now.\n');
  const wrong = refused(1, 'mount', '-o', 'overlay=o.qcow2', 'base.qcow2', 'mnt');
  expect(wrong).toMatch(
    /o\.qcow2 is an overlay on .*moved\.qcow2 and not on .*imgfuse rebase -u -b .*base\.qcow2 .*o\.qcow2/,
  );
  const json = JSON.parse(imgfuse('rebase', '--output=json', '-b', '', 'o.qcow2').stdout) as Record<string, unknown>;
  expect(json).toEqual({ filename: 'o.qcow2', 'data-size': expect.any(Number), 'zero-size': 0 });
  expect(json['data-size']).toBeGreaterThan(MIB);
  run('rm', 'base.qcow2', 'moved.qcow2');
  imgfuse('mount', 'o.qcow2', 'mnt');
  expect(read('mnt', 7)).toBe('changed');
  expect(read('mnt', 2, MIB)).toBe('\x07\x07');
  imgfuse('unmount', 'mnt');
  expect(refused(1, 'rebase', 'o.qcow2')).toMatch(/rebase needs the option -b BACKING/);
});
