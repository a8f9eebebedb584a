// What guests need beyond a plain mount: journals that must not be replayed, copies of what is mounted already, images that somebody
// else writes, and contents that no mount can show.

import { createHash } from 'node:crypto';
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loopsUnder } from '../support/attach-run.ts';
import { makeGuestDisk, run } from '../support/guest-images.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, isRunning, lines, mountsUnder, until } from './cli-harness.ts';

const GUESTS = {
  ext4: { mib: 32, make: ['mkfs.ext4', '-q', '-F'] },
  xfs: { mib: 304, make: ['mkfs.xfs', '-q', '-f'] },
  btrfs: { mib: 128, make: ['mkfs.btrfs', '-q', '-f'] },
} as const;
type Guest = keyof typeof GUESTS;
const TOOLS = ['sfdisk', 'losetup', 'mkfs.ext4', 'mkfs.xfs', 'mkfs.btrfs', 'qemu-img', 'cryptsetup', 'pvcreate'];

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot() && TOOLS.every(hasCommand), `root, /dev/fuse, ${TOOLS.join(', ')}`);
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
  return stdout;
}

function imageWith(guest: Guest): string {
  const image = bench.path(`${guest}.img`);
  makeGuestDisk(image, 'gpt', [GUESTS[guest]]);
  return image;
}

function leftovers(): string[] {
  return [...mountsUnder(bench.directory), ...loopsUnder(bench.directory)];
}

const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
const optionsOf = (directory: string): string[] =>
  run('findmnt', ['--noheadings', '--output', 'OPTIONS', directory]).split(',');

describe.each([
  ['ext4', 'norecovery'],
  ['xfs', 'norecovery'],
  ['btrfs', 'rescue=nologreplay'],
] as const)('a %s whose journal was not replayed', (type, option) => {
  test(`is read past it with ${option} if ro is given, so that no byte of the image changes, and is replayed without`, async () => {
    const image = imageWith(type);
    const guest = bench.makeDirectory('guest');
    imgfuse('attach', image, guest, '--', 'touch', 'before');
    imgfuse('attach', image, guest);
    run('sh', ['-euc', `cd ${guest}; echo kept >after; sync after`]);
    const pid = bench.daemonPid();
    process.kill(pid, 'SIGKILL');
    await until(() => !isRunning(pid), 'the mount process has ended');
    const dead = bench.imgfuse('detach', guest);
    expect(dead.code).toBe(32);
    expect(dead.stderr).toContain('had ended without closing it');
    expect(leftovers()).toEqual([]);

    const before = digest(image);
    const looked = bench.imgfuse('attach', '-o', 'ro', image, guest);
    expect(looked.code, looked.stderr).toBe(0);
    expect(looked.stderr).toContain(
      `imgfuse: partition 1 (${type}) was not unmounted properly, and read-only its journal is not replayed: the newest ` +
        'changes may be missing; attach it without ro to have them replayed\n',
    );
    expect(optionsOf(guest)).toEqual(expect.arrayContaining(['ro', option]));
    expect(readdirSync(guest)).toContain('before');
    imgfuse('detach', guest);
    expect(digest(image)).toBe(before);

    imgfuse('attach', image, guest);
    expect(readFileSync(join(guest, 'after'), 'utf8')).toBe('kept\n');
    imgfuse('detach', guest);
    expect(leftovers()).toEqual([]);
  });
});

describe('a copy of an image that is attached', () => {
  test('is attached beside it if it holds an XFS', () => {
    const image = imageWith('xfs');
    const copy = bench.path('copy.img');
    copyFileSync(image, copy);
    imgfuse('attach', image, bench.makeDirectory('one'));
    imgfuse('attach', copy, bench.makeDirectory('two'));
    writeFileSync(bench.path('two/file'), 'of the copy');
    expect(readdirSync(bench.path('one'))).toEqual([]);
    imgfuse('detach', image);
    imgfuse('detach', copy);
    expect(leftovers()).toEqual([]);
  });

  test('is refused if it holds a btrfs, because the kernel would take one for the other', () => {
    const image = imageWith('btrfs');
    const copy = bench.path('copy.img');
    copyFileSync(image, copy);
    imgfuse('attach', image, bench.makeDirectory('one'));
    const refused = bench.imgfuse('attach', copy, bench.makeDirectory('two'));
    expect(refused.code).toBe(32);
    expect(refused.stderr).toMatch(
      /^imgfuse: a btrfs with its UUID [0-9a-f-]{36} is mounted on this machine already, .*unmount that one first, or give/,
    );
    imgfuse('detach', image);
    imgfuse('attach', copy, bench.path('two'));
    imgfuse('detach', copy);
    expect(leftovers()).toEqual([]);
  });
});

describe('an image that another program writes', () => {
  test('is attached read-only, which is said, and refused if rw was asked for', () => {
    const image = imageWith('ext4');
    const at = bench.makeDirectory('mnt');
    const guest = bench.makeDirectory('guest');
    imgfuse('mount', image, at);
    const refused = bench.imgfuse('attach', '-o', 'rw', image, guest);
    expect(refused.code).toBe(32);
    expect(refused.stderr).toContain('is in use by imgfuse (process ');
    const beside = bench.imgfuse('attach', image, guest);
    expect(beside.code, beside.stderr).toBe(0);
    expect(beside.stderr).toMatch(
      /is in use by imgfuse \(process \d+\).*: it is attached read-only; what is being written/,
    );
    expect(beside.stdout).toBe(`${image} (partition 1, ext4, read-only) is attached at ${guest}\n`);
    expect(optionsOf(guest)).toContain('ro');
    imgfuse('detach', guest);
    imgfuse('unmount', at);
    expect(leftovers()).toEqual([]);
  });

  test('is not spoken of if the other one only reads', () => {
    const image = imageWith('ext4');
    const at = bench.makeDirectory('mnt');
    const guest = bench.makeDirectory('guest');
    imgfuse('mount', '-o', 'overlay=changes.qcow2', image, at);
    const beside = bench.imgfuse('attach', image, guest);
    expect(beside.code, beside.stderr).toBe(0);
    expect(lines(beside.stderr)).toEqual([
      expect.stringMatching(/is in use by imgfuse \(process \d+\).*: it is attached read-only$/),
    ]);
    imgfuse('detach', guest);
    imgfuse('unmount', at);
  });

  test('keeps its bytes if changes go to a temporary overlay', () => {
    const image = imageWith('ext4');
    const before = digest(image);
    const seen = bench.imgfuse('attach', '-o', 'snapshot', image, '--', 'sh', '-euc', 'echo new >file; sync; cat file');
    expect(seen.code, seen.stderr).toBe(0);
    expect(seen.stdout).toBe('new\n');
    expect(digest(image)).toBe(before);
    expect(leftovers()).toEqual([]);
  });
});

describe('what cannot be mounted as it is', () => {
  const LUKS = [
    'sh',
    '-euc',
    'printf secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file - "$0"',
  ];
  const marked = (bytes: string, seek: number) =>
    ['sh', '-euc', `printf %b '${bytes}' | dd of="$0" bs=1 seek=${seek} conv=notrunc status=none`] as const;

  test.each([
    ['LVM', ['pvcreate', '-qq', '--devices'], 'is a physical volume of LVM', 'vgchange -ay guest'],
    ['LUKS', LUKS, 'is encrypted with LUKS', 'cryptsetup open /dev/loopN guest'],
    [
      'BitLocker',
      marked('-FVE-FS-', 3),
      'is encrypted with BitLocker',
      'cryptsetup open --type bitlk /dev/loopN guest',
    ],
    ['swap', ['mkswap', '-q'], 'is swap space, which has no files', ''],
  ] as const)('%s is named, with the commands that open it', (name, make, what, command) => {
    const image = bench.path('disk.img');
    const pvcreate = ['sh', '-euc', 'pvcreate -qq --devices "$0" "$0"'];
    const [part] = makeGuestDisk(image, 'gpt', [{ mib: 24, make: name === 'LVM' ? pvcreate : make }]);
    const refused = bench.imgfuse('attach', image);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain(`${image} has no file system that can be mounted as it is: partition 1 ${what}`);
    if (command !== '') {
      const loop = `losetup --find --show --offset ${part!.start} --sizelimit ${part!.size} IMG/disk.raw`;
      expect(refused.stderr).toContain(`imgfuse mount ${image} IMG; ${loop}; `);
      expect(refused.stderr).toContain(command);
    }
    expect(leftovers()).toEqual([]);
  });

  test('a container beside the one file system is named when that is attached', () => {
    const image = bench.path('disk.img');
    makeGuestDisk(image, 'gpt', [{ mib: 24, make: LUKS }, GUESTS.ext4]);
    const { code, stderr } = bench.imgfuse('attach', image);
    expect(code).toBe(0);
    expect(stderr).toContain(
      'partition 1 is encrypted with LUKS and stays closed; "imgfuse attach --partition 1" says how',
    );
    imgfuse('detach', image);
  });

  test('a file system without a driver is named, with what to do', () => {
    const image = bench.path('disk.img');
    makeGuestDisk(image, 'gpt', [{ mib: 8, make: marked('ReFS\\0\\0\\0\\0', 3) }]);
    const refused = bench.imgfuse('attach', image);
    expect(refused.code).toBe(32);
    expect(refused.stderr).toBe(
      'imgfuse: it holds ReFS, which neither this kernel nor a program here can mount: load its module (modprobe ReFS), or ' +
        'use a kernel that has it\n',
    );
    expect(leftovers()).toEqual([]);
  });

  test('one of several that cannot be mounted is left out of all of them', () => {
    const image = bench.path('disk.img');
    makeGuestDisk(image, 'gpt', [{ mib: 8, make: marked('ReFS\\0\\0\\0\\0', 3) }, GUESTS.ext4]);
    const guest = bench.makeDirectory('guest');
    const { code, stdout, stderr } = bench.imgfuse('attach', image, guest, '--partition', 'all');
    expect(code, stderr).toBe(0);
    expect(stderr).toContain('imgfuse: partition 1 is left out: it holds ReFS, which neither this kernel');
    expect(stdout).toBe(`${image} (partition 2, ext4) is attached at ${guest}/p2\n`);
    imgfuse('detach', image);
    expect(readdirSync(guest)).toEqual([]);
    expect(leftovers()).toEqual([]);
  });

  test('an empty disk, and an empty table, are called that', () => {
    const image = bench.path('disk.img');
    run('truncate', ['-s', '8M', image]);
    expect(bench.imgfuse('attach', image).stderr).toContain(
      'has neither a partition table nor a file system that is known here',
    );
    run('sfdisk', ['--quiet', image], 'label: gpt\n');
    expect(bench.imgfuse('attach', image).stderr).toContain(`the partition table of ${image} is empty`);
  });
});
