// What a loop device shows of its file, from sysfs. mount(8) puts a loop device over an image when it is given offset=,
// sizelimit= or loop; the device then hides where the image begins or ends. If the file of a device cannot be found (in another
// mount namespace, or not readable for this user), nothing is said of it.

import * as fs from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { nameOfBytes } from '../bytes/names.ts';
import { SECTOR_BYTES } from '../bytes/offsets.ts';
import type { HostFile } from './host-file.ts';
import { PosixHostFile } from './posix-file.ts';

/** appended by the kernel to the path of a file that was removed */
const DELETED = ' (deleted)';

/** A loop device, or a partition of one, as a window on its file. */
export interface LoopWindow {
  /** path of the file behind the device */
  readonly path: string;
  /** where the device begins and ends in that file, in bytes */
  readonly start: number;
  readonly end: number;
}

/** The window that `file` is; null if it is no loop device, or its file cannot be named. */
export function loopWindow(file: HostFile): LoopWindow | null {
  if (!file.isDevice || file.descriptor === null) return null;
  const { rdev } = fs.fstatSync(file.descriptor);
  try {
    const device = fs.realpathSync(`/sys/dev/block/${major(rdev)}:${minor(rdev)}`);
    const isPartition = fs.existsSync(join(device, 'partition'));
    const disk = isPartition ? dirname(device) : device;
    if (!basename(disk).startsWith('loop')) return null;
    const path = readLine(disk, 'loop/backing_file');
    if (path.endsWith(DELETED)) return null;
    const partitionStart = isPartition ? Number(readLine(device, 'start')) * SECTOR_BYTES : 0;
    const start = Number(readLine(disk, 'loop/offset')) + partitionStart;
    return { path, start, end: start + file.size() };
  } catch {
    return null;
  }
}

/** Opens the file behind a loop device to look at it; null if this user may not. */
export function openLoopFile(window: LoopWindow): HostFile | null {
  try {
    return PosixHostFile.open(window.path, true);
  } catch {
    return null;
  }
}

function readLine(folder: string, name: string): string {
  return nameOfBytes(fs.readFileSync(join(folder, name))).replace(/\n$/, '');
}

/** Of a device number as stat(2) has it: 12 bits of major between the low 8 and the high 12 bits of minor. */
function major(device: number): number {
  return (device >>> 8) & 0xfff;
}

function minor(device: number): number {
  return (device & 0xff) | ((device >>> 12) & 0xfff00);
}
