// What partitions contain, made by the programs that make it: our own answer is that of blkid, and tells whether a journal must be
// replayed.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { askBlkid, mergeBlkid } from '../../src/guest/blkid.ts';
import { contentOf, type PartitionSource } from '../../src/guest/partitions/index.ts';
import { emptyFile, run, withFile, withLoop } from '../support/guest-tables.ts';
import { MIB } from '../support/partition-bytes.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
beforeAll(() => {
  folder = makeTemporaryDirectory();
});
afterAll(() => removeTemporaryDirectory(folder));

interface Recipe {
  readonly name: string;
  readonly program: string;
  readonly mib: number;
  readonly make: (file: string) => void;
  readonly expected: object;
}

const UUID = '0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0';
const by =
  (program: string, ...parameters: string[]) =>
  (file: string) => {
    run(program, [...parameters, file]);
  };
const luks = (type: string, ...more: string[]) => ({
  program: 'cryptsetup',
  mib: 32,
  make: (file: string) => {
    const cheap = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', '--key-file', '-', '--uuid', UUID];
    run('cryptsetup', ['luksFormat', '--batch-mode', '--type', type, ...cheap, ...more, file], 'secret');
  },
});

const RECIPES: readonly Recipe[] = [
  {
    name: 'ext2',
    program: 'mkfs.ext2',
    mib: 16,
    make: by('mkfs.ext2', '-q', '-F', '-L', 'a label', '-U', UUID),
    expected: { type: 'ext2', label: 'a label', uuid: UUID, needsRecovery: false },
  },
  {
    name: 'ext3',
    program: 'mkfs.ext3',
    mib: 16,
    make: by('mkfs.ext3', '-q', '-F'),
    expected: { type: 'ext3', label: null, needsRecovery: false },
  },
  {
    name: 'ext4',
    program: 'mkfs.ext4',
    mib: 16,
    make: by('mkfs.ext4', '-q', '-F', '-L', 'exactly16letters'),
    expected: { type: 'ext4', label: 'exactly16letters', needsRecovery: false },
  },
  {
    name: 'a journal of ext4 on its own',
    program: 'mkfs.ext4',
    mib: 16,
    make: by('mkfs.ext4', '-q', '-F', '-O', 'journal_dev', '-L', 'journal'),
    expected: { type: 'jbd', use: 'container', label: 'journal' },
  },
  {
    name: 'xfs',
    program: 'mkfs.xfs',
    mib: 320,
    make: by('mkfs.xfs', '-q', '-L', 'exactly12let', '-m', `uuid=${UUID}`),
    expected: { type: 'xfs', label: 'exactly12let', uuid: UUID, needsRecovery: false },
  },
  {
    name: 'btrfs',
    program: 'mkfs.btrfs',
    mib: 128,
    make: by('mkfs.btrfs', '-q', '-L', 'läbel', '-U', UUID),
    expected: { type: 'btrfs', label: 'läbel', uuid: UUID, needsRecovery: false },
  },
  {
    name: 'swap',
    program: 'mkswap',
    mib: 16,
    make: by('mkswap', '-L', 'swap space', '-U', UUID),
    expected: { type: 'swap', use: 'swap', label: 'swap space', uuid: UUID },
  },
  {
    name: 'swap with pages of 64 KiB',
    program: 'mkswap',
    mib: 16,
    make: by('mkswap', '--pagesize', '65536'),
    expected: { type: 'swap', use: 'swap' },
  },
  ...['12', '16', '32'].map(
    (width): Recipe => ({
      name: `FAT${width}`,
      program: 'mkfs.vfat',
      mib: width === '12' ? 4 : width === '16' ? 32 : 64,
      make: by('mkfs.vfat', '-F', width, '-n', 'MY LABEL', '-i', '1234ABCD'),
      expected: { type: 'vfat', label: 'MY LABEL', uuid: '1234-ABCD', needsRecovery: false },
    }),
  ),
  {
    name: 'FAT without a label',
    program: 'mkfs.vfat',
    mib: 16,
    make: by('mkfs.vfat'),
    expected: { type: 'vfat', label: null },
  },
  {
    name: 'exFAT',
    program: 'mkfs.exfat',
    mib: 16,
    make: by('mkfs.exfat'),
    expected: { type: 'exfat', needsRecovery: false },
  },
  {
    name: 'NTFS',
    program: 'mkfs.ntfs',
    mib: 16,
    make: by('mkfs.ntfs', '--quiet', '--force', '--fast', '--label', 'Système', '--with-uuid'),
    expected: { type: 'ntfs', label: 'Système', needsRecovery: false },
  },
  { name: 'LUKS1', ...luks('luks1'), expected: { type: 'crypto_LUKS', use: 'container', label: null, uuid: UUID } },
  {
    name: 'LUKS2',
    ...luks('luks2', '--label', 'secret things'),
    expected: { type: 'crypto_LUKS', use: 'container', label: 'secret things', uuid: UUID },
  },
  {
    name: 'squashfs',
    program: 'mksquashfs',
    mib: 1,
    make: (file) => run('mksquashfs', ['/etc/hostname', file, '-noappend', '-quiet', '-no-progress']),
    expected: { type: 'squashfs', label: null, needsRecovery: false },
  },
  {
    name: 'a CD image',
    program: 'xorriso',
    mib: 1,
    make: (file) => run('xorriso', ['-as', 'mkisofs', '-quiet', '-V', 'A_CD', '-o', file, '/etc/hostname']),
    expected: { type: 'iso9660', label: 'A_CD' },
  },
  {
    name: 'an LVM physical volume',
    program: 'pvcreate',
    mib: 16,
    make: (file) => {
      withLoop(file, [], (device) => {
        const quiet = 'activation { udev_sync=0 udev_rules=0 } devices { scan=["/dev"] }';
        run('pvcreate', ['--quiet', '--config', quiet, '--devices', device, '--metadatasize', '1m', device]);
      });
    },
    expected: { type: 'LVM2_member', use: 'container', label: null },
  },
];

describe.each(RECIPES)('$name, made by $program', ({ name, program, mib, make, expected }) => {
  test('is recognized as blkid recognizes it, alone and within a disk', async (context) => {
    requireOrSkip(context, hasCommand(program) && hasCommand('blkid'), `${program} and blkid`);
    if (program === 'pvcreate') requireOrSkip(context, canMountAsRoot(), 'root and loop devices');
    const file = emptyFile(join(folder, name.replaceAll(' ', '-')), mib * MIB);
    make(file);
    const size = withFile(file, (source) => source.size);
    const own = withFile(file, (source) => contentOf(source, 0, source.size));
    expect(own).toMatchObject({ use: 'filesystem', also: [], ...expected });
    const answer = await askBlkid({ path: file, offset: 0, size }, 20_000);
    const { type, label, uuid } = own!;
    if (answer.kind !== 'found') throw new Error(`blkid says ${JSON.stringify(answer)}`);
    // blkid makes an identifier of the date of a CD, and reads the label of exFAT
    expect(answer).toMatchObject({ type, label, ...(type === 'iso9660' ? {} : { uuid }) });
    expect(mergeBlkid(own, answer)).toEqual({ ...own, uuid: answer.uuid });

    const disk = emptyFile(join(folder, 'disk'), size + 3 * MIB);
    run('dd', [`if=${file}`, `of=${disk}`, 'bs=1M', 'seek=1', 'conv=notrunc,sparse', 'status=none']);
    expect(withFile(disk, (source) => contentOf(source, MIB, size))).toEqual(own);
    expect(await askBlkid({ path: disk, offset: MIB, size }, 20_000)).toEqual(answer);
    run('rm', [file, disk]);
  });
});

test('two file systems in one place are told, and blkid does not choose either', async (context) => {
  requireOrSkip(
    context,
    hasCommand('mkfs.vfat') && hasCommand('mkfs.ext4') && hasCommand('blkid'),
    'mkfs.vfat, mkfs.ext4, blkid',
  );
  const file = emptyFile(join(folder, 'ambivalent'), 16 * MIB);
  run('mkfs.vfat', ['-R', '8', file]);
  const other = emptyFile(join(folder, 'other'), 16 * MIB);
  run('mkfs.ext4', ['-q', '-F', other]);
  run('dd', [`if=${other}`, `of=${file}`, 'bs=1k', 'skip=1', 'seek=1', 'count=1', 'conv=notrunc', 'status=none']);
  const own = withFile(file, (source) => contentOf(source, 0, source.size));
  expect(own).toMatchObject({ type: 'vfat', also: ['ext4'] });
  const answer = await askBlkid({ path: file, offset: 0, size: 16 * MIB }, 20_000);
  expect(answer).toEqual({ kind: 'ambivalent', types: ['vfat', 'ext4'] });
  expect(mergeBlkid(own, answer)).toEqual(own);
});

test('a label that looks like output of blkid is a label', async (context) => {
  requireOrSkip(context, hasCommand('mkfs.ext4') && hasCommand('blkid'), 'mkfs.ext4 and blkid');
  const file = emptyFile(join(folder, 'hostile'), 16 * MIB);
  run('mkfs.ext4', ['-q', '-F', '-L', 'a\nID_FS_TYPE=x\\', file]);
  const own = withFile(file, (source) => contentOf(source, 0, source.size));
  expect(own).toMatchObject({ type: 'ext4', label: 'a\nID_FS_TYPE=x\\' });
  expect(mergeBlkid(own, await askBlkid({ path: file, offset: 0, size: 16 * MIB }, 20_000))).toEqual(own);
});

describe('the state of a journal', () => {
  const needsRecovery = (file: string): boolean | null | undefined =>
    withFile(file, (source: PartitionSource) => contentOf(source, 0, source.size))?.needsRecovery;

  /** Mounts a new file system, lets `work` change it and returns copies of the file: in use, and after the unmount. */
  function inUse(
    type: string,
    mib: number,
    make: readonly string[],
    work: (mountpoint: string) => void,
  ): { live: string; clean: string } {
    const file = emptyFile(join(folder, `journal-${type}`), mib * MIB);
    run(`mkfs.${type}`, [...make, file]);
    const mountpoint = join(folder, `mnt-${type}`);
    run('mkdir', [mountpoint]);
    const live = `${file}.live`;
    withLoop(file, [], (device) => {
      run('mount', ['-t', type, device, mountpoint]);
      try {
        work(mountpoint);
        run('cp', ['--sparse=always', file, live]);
      } finally {
        run('umount', [mountpoint]);
      }
    });
    return { live, clean: file };
  }

  test.for([
    { type: 'ext4', mib: 32, make: ['-q', '-F'] },
    { type: 'xfs', mib: 320, make: ['-q'] },
    { type: 'btrfs', mib: 128, make: ['-q'] },
  ])('of $type is dirty in a copy of a mounted one, and clean after its unmount', ({ type, mib, make }, context) => {
    requireOrSkip(context, canMountAsRoot() && hasCommand(`mkfs.${type}`), `root, loop devices and mkfs.${type}`);
    const { live, clean } = inUse(type, mib, make, (mountpoint) => {
      writeFileSync(join(mountpoint, 'before'), 'a');
      run('sync', ['-f', mountpoint]);
      writeFileSync(join(mountpoint, 'file'), 'b');
      // what makes btrfs write its log tree, and XFS its log
      run('sync', [join(mountpoint, 'file')]);
    });
    expect(needsRecovery(live)).toBe(true);
    expect(needsRecovery(clean)).toBe(false);
  });

  test('of XFS is told after it has gone round, and after a crash', (context) => {
    requireOrSkip(
      context,
      canMountAsRoot() && hasCommand('mkfs.xfs') && hasCommand('xfs_io'),
      'root, loop devices, xfsprogs',
    );
    // xfsprogs makes logs below 64 MiB for its own tests only
    const tests = { TEST_DIR: '1', TEST_DEV: '1', QA_CHECK_FS: '1' };
    Object.assign(process.env, tests);
    const work = (mountpoint: string): void => {
      for (let round = 0; round < 12; round++) {
        run('sh', [
          '-c',
          'i=0; while [ $i -lt 300 ]; do : > "$1/$i"; i=$((i + 1)); done; sync -f "$1"',
          'sh',
          mountpoint,
        ]);
        run('sh', ['-c', 'rm "$1"/*; sync -f "$1"', 'sh', mountpoint]);
      }
    };
    try {
      const file = emptyFile(join(folder, 'small-log'), 64 * MIB);
      run('mkfs.xfs', ['-q', '-l', 'size=1368b', file]);
      const mountpoint = join(folder, 'mnt-small');
      run('mkdir', [mountpoint]);
      const cycle = (...last: string[]): string => {
        withLoop(file, [], (device) => {
          run('mount', ['-t', 'xfs', device, mountpoint]);
          try {
            work(mountpoint);
            if (last.length > 0) run('xfs_io', ['-x', '-c', last.join(' '), mountpoint]);
          } finally {
            run('umount', [mountpoint]);
          }
        });
        return run('sh', ['-c', 'xfs_logprint -t "$1" 2>/dev/null', 'sh', file]);
      };
      const heads: number[] = [];
      for (let turn = 0; turn < 6; turn++) {
        const seen = turn === 3 ? cycle('shutdown', '-f') : cycle();
        heads.push(Number(/head: (\d+)/.exec(seen)![1]));
        expect(seen).toContain(turn === 3 ? '<DIRTY>' : '<CLEAN>');
        expect(needsRecovery(file)).toBe(turn === 3);
      }
      expect(heads.some((head, index) => index > 0 && head < heads[index - 1]!)).toBe(true);
    } finally {
      for (const name of Object.keys(tests)) delete process.env[name];
    }
  });
});
