// Partition tables and contents of partitions as the programs of a distribution make and read them.

import { execFileSync } from 'node:child_process';
import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { openDisk } from '../../src/disk/index.ts';
import type { PartitionSource } from '../../src/guest/partitions/index.ts';

/** Runs a program with an input and returns what it prints. @throws with its output when it fails */
export function run(program: string, parameters: readonly string[], input = ''): string {
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C.UTF-8' };
  return execFileSync(program, parameters, { input, encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'], env });
}

/** A new file of zeros. */
export function emptyFile(path: string, size: number): string {
  const descriptor = openSync(path, 'w');
  ftruncateSync(descriptor, size);
  closeSync(descriptor);
  return path;
}

/** What `work` returns for the bytes of a file or a block device. */
export function withFile<Result>(path: string, work: (source: PartitionSource) => Result, size?: number): Result {
  const descriptor = openSync(path, 'r');
  try {
    const read = (target: Uint8Array, offset: number): void => {
      const count = readSync(descriptor, target, 0, target.length, offset);
      if (count !== target.length) throw new Error(`${path} has ${count} of ${target.length} bytes at ${offset}`);
    };
    return work({ size: size ?? fstatSync(descriptor).size, read });
  } finally {
    closeSync(descriptor);
  }
}

/** The same for the disk in an image. */
export function withImage<Result>(path: string, format: string, work: (source: PartitionSource) => Result): Result {
  const disk = openDisk(path, { readOnly: true, format });
  try {
    const read = (target: Uint8Array, offset: number): void => {
      disk.read(target, 0, target.length, guestOffset(offset));
    };
    return work({ size: disk.size(), read });
  } finally {
    disk.close();
  }
}

/** What `work` returns while a file is a loop device, which goes in the end. */
export function withLoop<Result>(file: string, options: readonly string[], work: (device: string) => Result): Result {
  const device = run('losetup', ['--find', '--show', ...options, file]).trim();
  try {
    return work(device);
  } finally {
    run('losetup', ['--detach', device]);
  }
}

/** What several programs say of a partition, in bytes. */
export interface SeenPartition {
  readonly number: number;
  readonly start: number;
  readonly size: number;
  readonly type: string;
  readonly name: string | null;
  readonly uuid: string | null;
  readonly bootable: boolean;
}

interface SfdiskPartition {
  readonly node: string;
  readonly start: number;
  readonly size: number;
  readonly type: string;
  readonly uuid?: string;
  readonly name?: string;
  readonly attrs?: string;
  readonly bootable?: boolean;
}

const EXTENDED = /^0x(5|f|85)$/;

/** `sfdisk --json` of a file or device, without extended partitions; it gives no PARTUUID for an MBR. */
export function seenBySfdisk(path: string): { id: string; sectorSize: number; partitions: SeenPartition[] } {
  const { partitiontable: table } = JSON.parse(run('sfdisk', ['--json', path])) as {
    partitiontable: { label: string; id: string; sectorsize: number; partitions?: SfdiskPartition[] };
  };
  const isGpt = table.label === 'gpt';
  const partitions = (table.partitions ?? []).map(({ node, start, size, type, uuid, name, attrs, bootable }) => {
    const number = Number(/\d+$/.exec(node.slice(path.length))![0]);
    const diskId = table.id.replace('0x', '');
    return {
      number,
      start: start * table.sectorsize,
      size: size * table.sectorsize,
      type: isGpt ? type.toLowerCase() : `0x${type}`,
      name: name ?? null,
      uuid: isGpt ? uuid!.toLowerCase() : `${diskId}-${number.toString(16).padStart(2, '0')}`,
      bootable: isGpt ? (attrs ?? '').includes('LegacyBIOSBootable') : bootable === true,
    };
  });
  return {
    id: isGpt ? table.id.toLowerCase() : table.id.replace('0x', ''),
    sectorSize: table.sectorsize,
    partitions: partitions.filter(({ type }) => !EXTENDED.test(type)),
  };
}

/** `partx --show` of a file or device, which is what libblkid sees, without extended partitions. */
export function seenByPartx(path: string): Omit<SeenPartition, 'bootable'>[] {
  const lines = run('partx', ['--pairs', '--bytes', '--output', 'NR,START,SIZE,TYPE,UUID,NAME', path]);
  const partitions = [
    ...lines.matchAll(/NR="(\d+)" START="(\d+)" SIZE="(\d+)" TYPE="([^"]*)" UUID="([^"]*)" NAME="([^"]*)"/g),
  ];
  return partitions
    .map(([, number, start, size, type, uuid, name]) => ({
      number: Number(number),
      // partx counts in sectors of 512 bytes, whatever the disk has
      start: Number(start) * 512,
      size: Number(size),
      type: type!,
      uuid: uuid === '' ? null : uuid!,
      name: name === '' ? null : unescaped(name!),
    }))
    .filter(({ type }) => !EXTENDED.test(type));
}

/** Of "\\xc3\\xbc", the way of partx to write bytes beyond ASCII. */
function unescaped(text: string): string {
  const bytes = text.replace(/\\x([0-9a-f]{2})/g, (_escape, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  );
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

/** What the kernel has of the partitions that partx gives it, by number; an extended one has two sectors. */
export function seenByKernel(device: string): Record<number, { start: number; size: number }> {
  const numbers = seenByPartx(device).map(({ number }) => number);
  if (numbers.length === 0) return {};
  try {
    run('partx', ['--delete', device]);
  } catch {
    // only sgdisk and parted have told the kernel already
  }
  run('partx', ['--add', device]);
  try {
    const name = basename(device);
    const read = (number: number, field: string): number =>
      Number(readFileSync(`/sys/block/${name}/${name}p${number}/${field}`, 'utf8')) * 512;
    return Object.fromEntries(
      numbers.map((number) => [number, { start: read(number, 'start'), size: read(number, 'size') }]),
    );
  } finally {
    run('partx', ['--delete', device]);
  }
}
