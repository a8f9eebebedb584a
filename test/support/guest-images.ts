// Images with a partition table and the file systems of a guest, made by the programs of a guest: sfdisk, mkfs, cryptsetup.

import { spawnSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';

const MIB = 1024 * 1024;

/** How a partition is filled. */
export interface GuestPart {
  readonly mib: number;
  /** as sfdisk names it: linux, swap, uefi, lvm; or its number or GUID */
  readonly type?: string;
  /** a program and its arguments; the loop device follows */
  readonly make?: readonly string[];
}

export interface PlacedPart {
  readonly start: number;
  readonly size: number;
}

/** Runs a program that must succeed. */
export function run(command: string, parameters: readonly string[], input = ''): string {
  const { status, stdout, stderr, error } = spawnSync(command, parameters, { input, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${parameters.join(' ')}: ${error?.message ?? stderr}`);
  return stdout.trim();
}

/**
 * Makes a raw disk at `path` with a table and its partitions.
 * @param label "gpt" or "dos"
 * @returns where the partitions are, in bytes
 */
export function makeGuestDisk(path: string, label: 'gpt' | 'dos', parts: readonly GuestPart[]): PlacedPart[] {
  const total = parts.reduce((sum, { mib }) => sum + mib, 0);
  writeFileSync(path, '');
  truncateSync(path, (total + 4) * MIB);
  const lines = parts.map(({ mib, type = 'linux' }) => `size=${mib}MiB, type=${type}`);
  run('sfdisk', ['--quiet', path], [`label: ${label}`, ...lines, ''].join('\n'));
  const table = JSON.parse(run('sfdisk', ['--json', path])) as {
    partitiontable: { partitions: { start: number; size: number }[] };
  };
  const placed = table.partitiontable.partitions.map(({ start, size }) => ({ start: start * 512, size: size * 512 }));
  parts.forEach(({ make }, index) => {
    if (make !== undefined) withLoop(path, placed[index]!, (device) => run(make[0]!, [...make.slice(1), device]));
  });
  return placed;
}

/** Options of qemu-img convert, so that the new image has the size of the old one: of VHD QEMU makes what a geometry can say. */
export function exactSize(format: string): readonly string[] {
  return format === 'vpc' ? ['-o', 'force_size=on'] : [];
}

/** Runs a function with a loop device over a part of a file. */
export function withLoop<T>(path: string, { start, size }: PlacedPart, use: (device: string) => T): T {
  const device = run('losetup', ['--find', '--show', '--offset', String(start), '--sizelimit', String(size), path]);
  try {
    return use(device);
  } finally {
    run('losetup', ['--detach', device]);
  }
}

/** Whether the file system of a part is sound, by its own fsck; the text of the complaint if it is not. */
export function fsckOf(type: string, path: string, part: PlacedPart): string | null {
  const checks: Readonly<Record<string, readonly string[]>> = {
    ext4: ['e2fsck', '-f', '-n'],
    xfs: ['xfs_repair', '-n'],
    btrfs: ['btrfs', 'check', '--readonly'],
  };
  const [program, ...parameters] = checks[type]!;
  return withLoop(path, part, (device) => {
    const { status, stdout, stderr } = spawnSync(program!, [...parameters, device], { encoding: 'utf8' });
    return status === 0 ? null : `${program}: ${stdout}${stderr}`;
  });
}
