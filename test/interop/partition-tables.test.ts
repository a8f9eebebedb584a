// Tables that sfdisk, parted and sgdisk make, in images of several formats and with sectors of 512 and 4096 bytes: what is read of
// them is what sfdisk, libblkid (partx, blkid) and the kernel make of them.

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type PartitionTable, readPartitionTable } from '../../src/guest/partitions/index.ts';
import { gptTypeName, mbrTypeName, NAMED_TYPES } from '../../src/guest/partitions/type-names.ts';
import {
  emptyFile,
  run,
  seenByKernel,
  seenByPartx,
  seenBySfdisk,
  withFile,
  withImage,
  withLoop,
} from '../support/guest-tables.ts';
import { MIB } from '../support/partition-bytes.ts';
import { hasQemu, qemuImg } from '../support/qemu.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const SIZE = 256 * MIB;
const PROGRAMS = ['sfdisk', 'partx', 'blkid', 'parted', 'sgdisk'];

let folder: string;

beforeAll(() => {
  folder = makeTemporaryDirectory();
});
afterAll(() => removeTemporaryDirectory(folder));

/** Programs write to a file, or to a block device for other sectors than 512 bytes. */
interface Recipe {
  readonly name: string;
  readonly make: (path: string) => void;
  /** numbers of the partitions that must be there, so that two programs that see nothing do not agree */
  readonly numbers: readonly number[];
}

const sfdisk = (script: string) => (path: string) => {
  run('sfdisk', ['--quiet', path], script);
};
const parted =
  (...words: string[]) =>
  (path: string) => {
    run('parted', ['--script', '--align', 'none', path, ...words]);
  };
const sgdisk =
  (...words: string[]) =>
  (path: string) => {
    run('sgdisk', [...words, path]);
  };

const MBR: readonly Recipe[] = [
  { name: 'sfdisk: an empty MBR', make: sfdisk('label: dos\n'), numbers: [] },
  {
    name: 'sfdisk: four primary partitions, one active',
    make: sfdisk('label: dos\nsize=10M,type=83,bootable\nsize=10M,type=82\nsize=10M,type=8e\nsize=10M,type=7\n'),
    numbers: [1, 2, 3, 4],
  },
  {
    name: 'sfdisk: a gap in the numbers, and logical partitions',
    make: sfdisk('label: dos\n2: size=10M\n4: type=5\n5: size=10M\n6: size=20M,type=c\n7: size=10M\n'),
    numbers: [2, 5, 6, 7],
  },
  {
    name: 'sfdisk: logical partitions that are not in the order of the disk, with a chain that goes backwards',
    make: sfdisk(
      'label: dos\nstart=2048,size=200M,type=5\nstart=300000,size=10M\nstart=100000,size=10M\nstart=10240,size=10M\n',
    ),
    numbers: [5, 6, 7],
  },
  {
    name: 'sfdisk: one of the logical partitions deleted, and another one made',
    make: (path) => {
      sfdisk('label: dos\n4: type=f\nsize=10M\nsize=20M\nsize=10M\nsize=10M\n')(path);
      run('sfdisk', ['--quiet', '--delete', path, '6']);
      run('sfdisk', ['--quiet', '--append', path], 'size=5M\n');
    },
    numbers: [5, 6, 7, 8],
  },
  {
    name: 'sfdisk: fifty logical partitions',
    make: sfdisk(`label: dos\ntype=85\n${'size=1M\n'.repeat(50)}`),
    numbers: Array.from({ length: 50 }, (_, index) => index + 5),
  },
  {
    name: 'parted: primary, extended and logical partitions',
    make: parted(
      ...['mklabel', 'msdos', 'mkpart', 'primary', 'ext4', '1MiB', '20MiB', 'mkpart', 'extended', '20MiB', '200MiB'],
      ...[
        'mkpart',
        'logical',
        'fat32',
        '21MiB',
        '50MiB',
        'mkpart',
        'logical',
        'linux-swap',
        '60MiB',
        '90MiB',
        'set',
        '1',
        'boot',
        'on',
      ],
    ),
    numbers: [1, 5, 6],
  },
  {
    name: 'parted: an extended partition without logical ones',
    make: parted('mklabel', 'msdos', 'mkpart', 'extended', '20MiB', '200MiB', 'mkpart', 'primary', '1MiB', '2MiB'),
    numbers: [2],
  },
];

const GPT: readonly Recipe[] = [
  { name: 'sfdisk: an empty GPT', make: sfdisk('label: gpt\n'), numbers: [] },
  {
    name: 'sfdisk: names, attributes and types',
    make: sfdisk(
      'label: gpt\nsize=10M,type=U,name="EFI system"\nsize=10M,type=L,name="ünï 日本",attrs=LegacyBIOSBootable\nsize=10M,type=S\n' +
        'size=10M,type=ebd0a0a2-b9e5-4433-87c0-68b6b72699c7\nsize=10M,type=12345678-9abc-def0-1234-56789abcdef0\n',
    ),
    numbers: [1, 2, 3, 4, 5],
  },
  {
    name: 'sfdisk: gaps in the numbers',
    make: sfdisk('label: gpt\n3: size=10M\n7: size=10M\n128: size=10M\n'),
    numbers: [3, 7, 128],
  },
  { name: 'sfdisk: the last sector that can be used', make: sfdisk('label: gpt\nsize=10M\n,+\n'), numbers: [1, 2] },
  {
    name: 'parted: names and flags',
    make: parted(
      ...['mklabel', 'gpt', 'mkpart', 'ESP', 'fat32', '1MiB', '20MiB', 'set', '1', 'esp', 'on'],
      ...[
        'mkpart',
        'root',
        'ext4',
        '20MiB',
        '100MiB',
        'mkpart',
        'data',
        'xfs',
        '100MiB',
        '200MiB',
        'set',
        '2',
        'legacy_boot',
        'on',
      ],
    ),
    numbers: [1, 2, 3],
  },
  {
    name: 'sgdisk: partitions out of order, the largest first',
    make: sgdisk('-n', '2:100M:+50M', '-n', '1:10M:+5M', '-t', '1:8200', '-n', '5:200M:0', '-c', '5:../etc/passwd'),
    numbers: [1, 2, 5],
  },
];

const view = (partitions: PartitionTable['partitions']) => partitions.map(({ typeName: _, ...partition }) => partition);
const byNumber = <Entry extends { number: number }>(list: readonly Entry[]): Entry[] =>
  [...list].sort((a, b) => a.number - b.number);

/** The same table from every program that can read the file or the device. */
function expectSame(table: PartitionTable, path: string, scheme: string, numbers: readonly number[]): void {
  expect(table).toMatchObject({ scheme, warnings: [] });
  expect(table.partitions.map(({ number }) => number).sort((a, b) => a - b)).toEqual(numbers);
  const { id, sectorSize, partitions } = seenBySfdisk(path);
  expect({ id: table.id, partitions: byNumber(view(table.partitions)) }).toEqual({
    id,
    partitions: byNumber(partitions),
  });
  if (scheme === 'gpt') expect(table.sectorSize).toBe(sectorSize);
  const fromPartx = table.partitions.map(({ typeName: _, bootable: __, ...partition }) => partition);
  expect(byNumber(fromPartx)).toEqual(byNumber(seenByPartx(path)));
  const blkid = run('blkid', ['-p', '-o', 'export', path]);
  expect(blkid).toContain(`PTTYPE=${scheme}\n`);
  expect(blkid).toContain(`PTUUID=${table.id}\n`);
}

describe.each([
  ...MBR.map((recipe) => ({ ...recipe, scheme: 'dos' })),
  ...GPT.map((recipe) => ({ ...recipe, scheme: 'gpt' })),
])('$name', ({ name, make, numbers, scheme }) => {
  const file = (ending: string): string => join(folder, `${name.replaceAll(/\W+/g, '-')}${ending}`);

  test('is read as sfdisk and libblkid read it, from a raw, a qcow2 and a QED image', (context) => {
    requireOrSkip(context, hasQemu && PROGRAMS.every(hasCommand), `qemu-img, ${PROGRAMS.join(', ')}`);
    const raw = emptyFile(file('.raw'), SIZE);
    make(raw);
    const table = withFile(raw, readPartitionTable);
    expectSame(table, raw, scheme, numbers);
    expect(withImage(raw, 'raw', readPartitionTable)).toEqual(table);
    for (const format of ['qcow2', 'qed']) {
      const image = file(`.${format}.img`);
      qemuImg('convert', '-f', 'raw', '-O', format, raw, image);
      expect(withImage(image, format, readPartitionTable)).toEqual(table);
    }
  });
});

describe.each(MBR)('$name', ({ name, make }) => {
  test('is numbered and placed as in the kernel', (context) => {
    requireOrSkip(
      context,
      canMountAsRoot() && PROGRAMS.every(hasCommand),
      `root, loop devices, ${PROGRAMS.join(', ')}`,
    );
    const raw = emptyFile(join(folder, `kernel-${name.replaceAll(/\W+/g, '-')}`), SIZE);
    make(raw);
    const { partitions } = withFile(raw, readPartitionTable);
    const places = Object.fromEntries(partitions.map(({ number, start, size }) => [number, { start, size }]));
    expect(places).toEqual(withLoop(raw, [], seenByKernel));
  });
});

describe.each(GPT)('with sectors of 4096 bytes, $name', ({ name, make, numbers }) => {
  test('is read as sfdisk and libblkid read it from such a device', (context) => {
    requireOrSkip(
      context,
      canMountAsRoot() && PROGRAMS.every(hasCommand),
      `root, loop devices, ${PROGRAMS.join(', ')}`,
    );
    const raw = emptyFile(join(folder, `4k-${name.replaceAll(/\W+/g, '-')}`), SIZE);
    withLoop(raw, ['--sector-size', '4096'], (device) => {
      make(device);
      run('sync', [device]);
      const table = withFile(device, readPartitionTable, SIZE);
      expect(table.sectorSize).toBe(4096);
      expectSame(table, device, 'gpt', numbers);
      const places = Object.fromEntries(table.partitions.map(({ number, start, size }) => [number, { start, size }]));
      expect(places).toEqual(seenByKernel(device));
    });
    // nothing in the file says what sectors the device had but the table
    expect(withFile(raw, readPartitionTable).sectorSize).toBe(4096);
  });
});

describe('a GPT', () => {
  const made = (name: string): string => {
    const raw = emptyFile(join(folder, name), SIZE);
    sgdisk('-n', '1:0:+50M', '-c', '1:root', '-n', '4:0:+50M')(raw);
    return raw;
  };
  const PROGRAM = 'sgdisk';

  test('of which the primary header, or its array, is damaged is read from its backup', (context) => {
    requireOrSkip(context, hasCommand(PROGRAM), PROGRAM);
    const raw = made('damaged');
    const before = withFile(raw, readPartitionTable);
    for (const [seek, count] of [
      [1, 1],
      [2, 32],
      [1, 33],
    ] as const) {
      run('dd', [
        'if=/dev/urandom',
        `of=${raw}`,
        'bs=512',
        `seek=${seek}`,
        `count=${count}`,
        'conv=notrunc',
        'status=none',
      ]);
      const after = withFile(raw, readPartitionTable);
      expect(after).toMatchObject({ scheme: 'gpt', id: before.id, partitions: before.partitions });
      expect(after.warnings).toEqual([
        expect.stringMatching(/^the primary GPT is damaged .* its backup at 0xffffe00 is used$/),
      ]);
    }
    run('sgdisk', ['--zap', raw]);
    expect(withFile(raw, readPartitionTable).partitions).toEqual([]);
  });

  test('on a disk that has grown is read from its primary header', (context) => {
    requireOrSkip(context, hasCommand(PROGRAM), PROGRAM);
    const raw = made('grown');
    const before = withFile(raw, readPartitionTable);
    run('truncate', ['--size', '+100M', raw]);
    expect(withFile(raw, readPartitionTable)).toEqual(before);
  });

  test('on a disk that was cut shows nothing, as in blkid: the usable range is not on the disk', (context) => {
    requireOrSkip(context, hasCommand(PROGRAM), PROGRAM);
    const raw = made('cut');
    run('truncate', ['--size', '200M', raw]);
    expect(withFile(raw, readPartitionTable)).toMatchObject({ scheme: null, partitions: [] });
    expect(run('partx', ['--show', '--noheadings', raw]).trim()).toBe('');
  });

  test('with a hybrid MBR is read as a GPT', (context) => {
    requireOrSkip(context, hasCommand(PROGRAM), PROGRAM);
    const raw = made('hybrid');
    run('sgdisk', ['--hybrid', '1:4', raw]);
    expectSame(withFile(raw, readPartitionTable), raw, 'gpt', [1, 4]);
  });

  test('with more entries than the kernel has numbers is shown up to number 255', (context) => {
    requireOrSkip(context, hasCommand(PROGRAM), PROGRAM);
    const raw = emptyFile(join(folder, 'many'), SIZE);
    run('sgdisk', ['--resize-table=300', raw]);
    run('sgdisk', [
      '--set-alignment=1',
      ...Array.from({ length: 260 }, (_, index) => `--new=${index + 1}:${4096 + index * 8}:+7`),
      raw,
    ]);
    const table = withFile(raw, readPartitionTable);
    expect(table.partitions.map(({ number }) => number)).toEqual(Array.from({ length: 255 }, (_, index) => index + 1));
    expect(table.warnings).toEqual(['5 partitions above number 255 are not shown, as in the kernel']);
  });
});

test.for([
  ['an MBR beside the file system', 'dos', ['-partition_offset', '16', '-append_partition', '2', '0xef', 'EFI']],
  ['a partition from sector 0 on', 'dos', ['-part_like_isohybrid', '-append_partition', '3', '0xef', 'EFI']],
  ['a partition from sector 1 on', 'dos', ['--protective-msdos-label']],
  ['a GPT', 'gpt', ['-appended_part_as_gpt', '-append_partition', '2', '0xef', 'EFI']],
] as const)('a CD image with %s is read as libblkid reads it', ([what, scheme, options], context) => {
  requireOrSkip(context, hasCommand('xorriso') && hasCommand('partx'), 'xorriso and partx');
  const efi = emptyFile(join(folder, 'efi'), 2 * MIB);
  const image = join(folder, `${what.replaceAll(' ', '-')}.iso`);
  const words = options.map((word) => (word === 'EFI' ? efi : word));
  run('xorriso', ['-as', 'mkisofs', '-quiet', '-o', image, ...words, '/etc/hostname']);
  const table = withFile(image, readPartitionTable);
  expect(table).toMatchObject({ scheme, warnings: [] });
  expect(table.partitions.length).toBeGreaterThan(0);
  expect(table.partitions.map(({ typeName: _, bootable: __, ...partition }) => partition)).toEqual(seenByPartx(image));
});

test('the names of types are those of sfdisk', (context) => {
  requireOrSkip(context, hasCommand('sfdisk'), 'sfdisk');
  const names = (label: string): Map<string, string> => {
    const lines = run('sfdisk', ['--list-types', '--label', label]).split('\n').slice(2);
    return new Map(
      lines.map((line) => [line.trim().split(/\s+/, 1)[0]!.toLowerCase(), line.trim().replace(/^\S+\s+/, '')]),
    );
  };
  const dos = names('dos');
  expect(NAMED_TYPES.dos.map(mbrTypeName)).toEqual(NAMED_TYPES.dos.map((type) => dos.get(type.toString(16))));
  const gpt = names('gpt');
  // younger than the sfdisk of Debian 12
  const known = NAMED_TYPES.gpt.filter((type) => gpt.has(type));
  expect(known.length).toBeGreaterThan(60);
  expect(known.map(gptTypeName)).toEqual(known.map((type) => gpt.get(type)));
});
