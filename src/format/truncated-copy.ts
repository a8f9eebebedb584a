// A copy of an image that ends too early. Before or inside its L1 table: a repair makes the file long enough, as long as what is missing
// is what tools cut off a new image: zeros. A table that is said to be far beyond the end is a damaged header or a lost disk.
// Before or inside its last cluster of data: it is read as far as it goes, and whoever reads it is told.

import { hex, roundUp } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';

/** Between the end of the file and its L1 table, at most, in bytes: the first clusters of a new image, whatever their size. */
const MAX_LOST_BYTES = 256 * 1024 * 1024;

/** What the tables of an image say of its file. */
export interface DataInFile {
  /** clusters of the disk that have data */
  readonly clusters: number;
  /** host offset behind the last cluster that is stored as it is; 0: there is none */
  readonly end: number;
}

/** What a read does not find in the cluster that the file ends in is zeros, which nobody can tell from those of the guest. */
export function sayWhatIsCut(
  file: Pick<HostFile, 'path' | 'size'>,
  { end }: DataInFile,
  disk: { readonly bytes: number; readonly clusterSize: number },
  log: (sentence: string) => void,
): void {
  const size = file.size();
  // of the last cluster, a program may leave out what lies beyond the end of the disk
  const unused = roundUp(disk.bytes, disk.clusterSize) - disk.bytes;
  if (!(size + unused < end)) return;
  sayThatItIsCut(file, end, log);
}

/** @param end host offset behind the last data that the tables lead to */
export function sayThatItIsCut(
  file: Pick<HostFile, 'path' | 'size'>,
  end: number,
  log: (sentence: string) => void,
): void {
  log(
    `${file.path} is truncated: it has ${file.size()} bytes, and its tables lead to data up to ${end}; the end of the cluster that it ` +
      'ends in reads as zeros, and clusters after it are errors',
  );
}

/**
 * Makes the file `end` bytes long, durably, before anything else of a repair: a crash leaves a file that is whole, or one that
 * was not touched.
 * @throws ImgfuseError corrupt, and the file is as it was, when its L1 table is too far beyond the end
 */
export function completeFile(file: HostFile, l1TableOffset: number, end: number): void {
  const size = file.size();
  if (l1TableOffset - size > MAX_LOST_BYTES) {
    throw new ImgfuseError(
      'corrupt',
      `${file.path}: its L1 table is said to be at ${hex(l1TableOffset)}, far beyond the end of the file of ${size} bytes: ` +
        'the header is damaged, or most of the image is missing, and there is nothing to repair; copy the image again',
      { path: file.path, offset: l1TableOffset },
    );
  }
  file.truncate(end);
  file.sync();
}

/** Of a repair that was asked for, and leaves the end of the file alone. @param what leads beyond it, as the beginning of a sentence */
export function nothingAtTheEnd(what: string): string {
  return (
    `Nothing is written at the end of the file: ${what} beyond it, so the file was cut, perhaps inside that block. Copy the image ` +
    'again, or copy what is left of the disk from a mount with -o ro'
  );
}

/**
 * What helps an image that is not opened for writing. @param cutOff how many entries lead beyond its file @param isRepairable check
 * repairs all of its errors
 */
export function cureOf(cutOff: number, isRepairable: boolean): string {
  if (cutOff > 0) return 'copy the image again, or mount with -o ro';
  if (isRepairable) return 'repair a copy with imgfuse check -r all, or mount with -o ro';
  return 'and copy the disk from a mount with -o ro; no repair can know what is right';
}
