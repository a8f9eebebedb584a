// Finds out whether a file can give space back, without a change to its bytes: by a hole far beyond every byte that is ever
// written, or from what the kernel says about a device's queue.

import * as fs from 'node:fs';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE } from '../bytes/linux.ts';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { fallocate } from '../native/index.ts';

/** File systems end their files at different sizes: 2^52 is beyond the largest disk, 2^43 within the 16 TiB of ext4. */
const FAR_OFFSETS = [2 ** 52, 2 ** 43, 2 ** 40];
const PROBE_BYTES = 4096;

/** @param descriptor open for writing @returns false only if it is certain that no hole can be punched */
export function canPunchHoles(descriptor: number): boolean {
  const stat = fs.fstatSync(descriptor);
  return stat.isBlockDevice() ? deviceZeroes(stat.rdev) : fileTakesHoles(descriptor, stat.size);
}

function fileTakesHoles(descriptor: number, size: number): boolean {
  for (const offset of FAR_OFFSETS) {
    if (offset <= size) return true;
    try {
      fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, PROBE_BYTES);
      return true;
    } catch (error) {
      if (!(error instanceof ImgfuseError)) throw error;
      if (error.kind === 'unsupported') return false;
      if (error.context.errno !== ERRNO.EFBIG) return true;
    }
  }
  return true;
}

/** A device punches holes with its command for zeros; a partition has the queue of its disk. */
function deviceZeroes(rdev: number): boolean {
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  const device = `/sys/dev/block/${(rdev >>> 8) & 0xfff}:${minor}`;
  for (const queue of [`${device}/queue`, `${device}/../queue`]) {
    try {
      return Number(fs.readFileSync(`${queue}/write_zeroes_max_bytes`, 'utf8')) > 0;
    } catch {
      // look in the next place
    }
  }
  return true;
}
