// The files of a guest with one command: attach mounts them, detach takes all of it back, and nothing else is left.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { drawnRows } from '../support/drawn-rows.ts';
import { exactSize, fsckOf, makeGuestDisk, run } from '../support/guest-images.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf, isRunning, lines, mountsUnder, until } from './cli-harness.ts';

const MAKERS = {
  ext4: ['mkfs.ext4', '-q', '-F', '-L', 'data'],
  xfs: ['mkfs.xfs', '-q', '-f', '-L', 'data'],
  btrfs: ['mkfs.btrfs', '-q', '-f', '-L', 'data'],
  swap: ['mkswap', '-q'],
} as const;
const TOOLS = ['sfdisk', 'losetup', 'mkfs.ext4', 'mkfs.xfs', 'mkfs.btrfs', 'qemu-img'];

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

function needTools(context: Parameters<typeof requireOrSkip>[0]): void {
  requireOrSkip(context, canMountAsRoot() && TOOLS.every(hasCommand), `root, /dev/fuse, ${TOOLS.join(', ')}`);
}

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
  return stdout;
}

/** An image of the raw disk in a format. */
function imageOf(raw: string, format: string): string {
  if (format === 'raw') return raw;
  const image = bench.path(`guest.${format}`);
  run('qemu-img', ['convert', '-f', 'raw', '-O', format, ...exactSize(format), raw, image]);
  return image;
}

/** Loop devices whose file lies in the directory of the test. */
function loops(): string[] {
  return readdirSync('/sys/block').filter((name) => {
    const file = `/sys/block/${name}/loop/backing_file`;
    return existsSync(file) && readFileSync(file, 'utf8').startsWith(`${bench.directory}/`);
  });
}

/** What attach and detach must not leave: mounts, loop devices, records, directories. */
function leftovers(): string[] {
  return [...mountsUnder(bench.directory), ...loops(), ...bench.runtimeFiles()];
}

describe.each(
  drawnRows(
    [
      ['qcow2', 'gpt', 'ext4'],
      ['qcow2', 'dos', 'xfs'],
      ['qed', 'gpt', 'btrfs'],
      ['qed', 'dos', 'ext4'],
      ['vdi', 'gpt', 'xfs'],
      ['vpc', 'dos', 'btrfs'],
      ['vmdk', 'gpt', 'ext4'],
      ['vhdx', 'dos', 'ext4'],
      ['parallels', 'gpt', 'ext4'],
      ['raw', 'gpt', 'xfs'],
    ] as const,
    ([format]) => format === 'qcow2',
  ),
)('a %s image with a %s table', (format, label, type) => {
  test(`shows the files of its one ${type}, keeps what is written, and leaves nothing`, (context) => {
    needTools(context);
    const raw = bench.path('disk.img');
    const [, part] = makeGuestDisk(raw, label, [
      { mib: 8, type: 'swap', make: MAKERS.swap },
      { mib: type === 'ext4' ? 64 : 320, make: MAKERS[type] },
    ]);
    const image = imageOf(raw, format);
    const guest = bench.makeDirectory('guest');

    expect(imgfuse('attach', image, guest)).toBe(`${image} (partition 2, ${type}) is attached at ${guest}\n`);
    expect(run('findmnt', ['--noheadings', '--output', 'FSTYPE,OPTIONS', guest])).toMatch(
      new RegExp(`^${type}\\s+rw,nosuid,nodev`),
    );
    writeFileSync(join(guest, 'kept'), 'what was written');
    expect(imgfuse('detach', guest)).toBe(`${image} is closed and clean\n`);
    expect(leftovers()).toEqual([]);
    expect(existsSync(guest)).toBe(true);

    const copy = bench.path('copy.img');
    run('qemu-img', ['convert', '-f', format, '-O', 'raw', image, copy]);
    expect(fsckOf(type, copy, part!)).toBeNull();
    expect(imgfuse('attach', '--read-only', image, '--', 'cat', 'kept')).toBe('what was written');
    expect(leftovers()).toEqual([]);
  });
});

describe('which partition is attached', () => {
  const PARTS = [
    { mib: 16, type: 'uefi', make: MAKERS.ext4 },
    { mib: 16, make: MAKERS.ext4 },
    { mib: 8, type: 'swap', make: MAKERS.swap },
  ];

  test('the partition of the firmware is not taken for the one that is wanted', (context) => {
    needTools(context);
    const raw = bench.path('disk.img');
    makeGuestDisk(raw, 'gpt', PARTS);
    const { partitions } = JSON.parse(imgfuse('attach', '--output=json', raw)) as { partitions: { number: number }[] };
    expect(partitions.map(({ number }) => number)).toEqual([2]);
    imgfuse('detach', raw);
  });

  test('several are listed, one is attached by its number, all of them side by side', (context) => {
    needTools(context);
    const raw = bench.path('disk.img');
    makeGuestDisk(raw, 'gpt', [...PARTS, { mib: 16, make: MAKERS.ext4 }]);
    const guest = bench.makeDirectory('guest');

    const asked = bench.imgfuse('attach', raw, guest);
    expect(asked.code).toBe(1);
    expect(lines(asked.stderr)).toEqual([
      expect.stringMatching(/^PARTITION +SIZE +TYPE +CONTENT +LABEL$/),
      expect.stringMatching(/^1 +16 MiB +EFI System +ext4 +data$/),
      expect.stringMatching(/^2 +16 MiB +Linux filesystem +ext4 +data$/),
      expect.stringMatching(/^3 +8 MiB +Linux swap +swap$/),
      expect.stringMatching(/^4 +16 MiB +Linux filesystem +ext4 +data$/),
      `imgfuse: ${raw} has 3 file systems; choose one with --partition N, or all with --partition all`,
    ]);
    expect(leftovers()).toEqual([]);

    imgfuse('attach', raw, guest, '--partition', '4');
    expect(readdirSync(guest)).toEqual(['lost+found']);
    imgfuse('detach', raw);

    imgfuse('attach', raw, guest, '--partition=all');
    expect(readdirSync(guest).sort()).toEqual(['p1', 'p2', 'p4']);
    for (const name of ['p1', 'p2', 'p4']) expect(readdirSync(join(guest, name))).toEqual(['lost+found']);
    imgfuse('detach', join(guest, 'p2'));
    expect(readdirSync(guest)).toEqual([]);
    expect(leftovers()).toEqual([]);
  });

  test('a disk without a table is attached as a whole', (context) => {
    needTools(context);
    const raw = bench.path('disk.img');
    run('truncate', ['-s', '16M', raw]);
    run('mkfs.ext4', ['-q', '-F', raw]);
    expect(imgfuse('attach', raw)).toMatch(
      new RegExp(`^${raw} \\(ext4\\) is attached at ${bench.runtime}/.*/files\n$`),
    );
    imgfuse('detach', raw);
    expect(leftovers()).toEqual([]);
    expect(bench.imgfuse('attach', raw, '--partition', '1').stderr).toContain(
      'has no partition 1: it has no partitions; leave --partition out',
    );
  });
});

describe('an attached image', () => {
  const attached = (context: Parameters<typeof requireOrSkip>[0]): { image: string; guest: string } => {
    needTools(context);
    const raw = bench.path('disk.img');
    makeGuestDisk(raw, 'gpt', [{ mib: 16, make: MAKERS.ext4 }]);
    const image = imageOf(raw, 'qcow2');
    const guest = bench.makeDirectory('guest');
    imgfuse('attach', image, guest);
    return { image, guest };
  };

  test('is not attached twice, and the refusal says where it is', (context) => {
    const { image, guest } = attached(context);
    const again = bench.imgfuse('attach', image);
    expect(again.code).toBe(32);
    expect(again.stderr).toBe(`imgfuse: ${image} is attached already at ${guest}; "imgfuse detach" takes it back\n`);
  });

  test('is taken back after its mount process was told to end', async (context) => {
    const { image, guest } = attached(context);
    const pid = bench.daemonPid();
    process.kill(pid, 'SIGTERM');
    await until(() => !isRunning(pid), 'the mount process has ended');
    const { code, stderr } = bench.imgfuse('detach', image);
    expect(code).toBe(32);
    expect(stderr).toContain(`whether it was closed clean is not known: "imgfuse check ${image}" tells`);
    expect(mountsUnder(bench.directory), stderr).toEqual([]);
    expect(existsSync(join(bench.runtime, 'attached'))).toBe(false);
    imgfuse('attach', image, guest);
    imgfuse('detach', guest);
  });

  test('is attached once by two commands at the same moment', async (context) => {
    const { image, guest } = attached(context);
    imgfuse('detach', guest);
    const both = [bench.start('attach', image), bench.start('attach', image)];
    const codes = await Promise.all(both.map(exitOf));
    expect(codes.toSorted(), both.map((child) => child.output()).join('')).toEqual([0, 32]);
    const refused = both[codes.indexOf(32)]!.output();
    expect(refused).toMatch(
      / is (being attached by process \d+|attached already at \S+; "imgfuse detach" takes it back)\n$/,
    );
    imgfuse('detach', image);
    expect(leftovers()).toEqual([]);
  });

  test('is detached by its directory, by the image or by the loop device', (context) => {
    const { image, guest } = attached(context);
    imgfuse('detach', guest);
    imgfuse('attach', image, guest);
    imgfuse('detach', image);
    imgfuse('attach', image, guest);
    const [loop] = loops();
    imgfuse('detach', `/dev/${loop}`);
    expect(leftovers()).toEqual([]);
    const none = bench.imgfuse('detach', image);
    expect(none.code).toBe(32);
    expect(none.stderr).toBe(`imgfuse: ${image} is not attached; "imgfuse status" lists what is mounted\n`);
  });

  test('stays while a program uses it, and the program is named', async (context) => {
    const { image, guest } = attached(context);
    const sleeper = run('sh', ['-c', `cd ${guest} && { sleep 60 >/dev/null 2>&1 & echo $!; }`]);
    try {
      const busy = bench.imgfuse('detach', image);
      expect(busy.code).toBe(32);
      expect(busy.stderr).toBe(
        `imgfuse: ${guest} stays mounted: it is in use by process ${sleeper} (sleep); end what uses it and detach again\n`,
      );
    } finally {
      process.kill(Number(sleeper));
    }
    imgfuse('detach', image);
    expect(leftovers()).toEqual([]);
  });

  test('is not torn apart under a mount that somebody has made from it', (context) => {
    const { image, guest } = attached(context);
    const bound = bench.makeDirectory('bound');
    run('mount', ['--bind', guest, bound]);
    const refused = bench.imgfuse('detach', image);
    expect(refused.code).toBe(32);
    expect(refused.stderr).toContain(`the guest's file system is also mounted at ${bound}; unmount that first`);
    expect(readdirSync(guest)).toEqual(['lost+found']);
    run('umount', [bound]);
    imgfuse('detach', image);
    expect(leftovers()).toEqual([]);
  });

  test('is attached anew after its files were unmounted by hand', (context) => {
    const { image, guest } = attached(context);
    run('umount', [guest]);
    const again = bench.imgfuse('attach', image, guest);
    expect(again.code).toBe(0);
    expect(again.stderr).toContain('what an attach that was cut short had left');
    imgfuse('detach', image);
    expect(leftovers()).toEqual([]);
  });
});
