// The check of a dmg image: decompresses every run and compares the checksum of each block table with the data of its runs.
// There is nothing to repair a damaged run from.

import { crc32 } from 'node:zlib';
import { guestOffset, hex, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { crc32WithZeros } from '../../codec/crc32-zeros.ts';
import { isCorrupt } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type CheckReport, emptyCheckReport, limitedLog } from '../check-report.ts';
import type { CheckOptions } from '../image-format.ts';
import { type BlockTable, inDiskOrder, type Run, readBlockTables } from './block-table.ts';
import { DmgImage, stateOf } from './image.ts';
import { IGNORED_RUN, isCompressed, isZero } from './run-types.ts';
import { TRAILER_BYTES } from './signature.ts';
import { readTrailer } from './trailer.ts';

const STEP_BYTES = 1024 * 1024;

export function checkDmg(file: HostFile, options: CheckOptions): CheckReport {
  const trailer = readTrailer(file);
  const tables = readBlockTables(file, trailer);
  const checker = new Checker(new DmgImage(file, stateOf(trailer, tables)), tables, options);
  checker.report.totalClusters = trailer.diskBytes / SECTOR_BYTES;
  checker.report.imageEndOffset = file.size() - TRAILER_BYTES;
  for (const [index, table] of tables.entries()) checker.check(index, table);
  return checker.report;
}

class Checker {
  readonly report: CheckReport = emptyCheckReport('dmg');
  private readonly image: DmgImage;
  private readonly options: CheckOptions;
  private readonly log: (sentence: string) => void;
  private readonly total: number;
  private done = 0;
  private readonly bytes = new Uint8Array(STEP_BYTES);

  constructor(image: DmgImage, tables: readonly BlockTable[], options: CheckOptions) {
    this.image = image;
    this.options = options;
    this.log = limitedLog(options.log);
    this.total = tables.reduce((sum, { runs }) => sum + runs.length, 0);
  }

  check(index: number, { runs, crc32: wanted }: BlockTable): void {
    // programs differ in whether free space counts as zeros or not at all
    const sums = { withoutFree: 0, withFree: 0 };
    let isWhole = true;
    for (const run of inDiskOrder(runs)) {
      isWhole = this.add(run, sums) && isWhole;
      this.options.progress?.(++this.done / this.total);
    }
    if (wanted === undefined || !isWhole || sums.withoutFree === wanted || sums.withFree === wanted) return;
    this.finding(
      `${this.image.file.path}: the data of block table ${index} has the checksum ${hex(sums.withoutFree)} instead of ` +
        `${hex(wanted)}; restore the image from a backup`,
    );
  }

  /** @returns whether the run could be read, so that the sums count it */
  private add(run: Run, sums: { withoutFree: number; withFree: number }): boolean {
    if (isZero(run.type)) {
      sums.withFree = crc32WithZeros(sums.withFree, run.bytes);
      if (run.type !== IGNORED_RUN) sums.withoutFree = crc32WithZeros(sums.withoutFree, run.bytes);
      return true;
    }
    this.report.allocatedClusters += run.bytes / SECTOR_BYTES;
    if (isCompressed(run.type)) this.report.compressedClusters += run.bytes / SECTOR_BYTES;
    try {
      for (let at = 0; at < run.bytes; at += STEP_BYTES) {
        const part = this.bytes.subarray(0, Math.min(STEP_BYTES, run.bytes - at));
        this.image.read(part, 0, part.length, guestOffset(run.start + at));
        sums.withoutFree = crc32(part, sums.withoutFree);
        sums.withFree = crc32(part, sums.withFree);
      }
      return true;
    } catch (error) {
      if (!isCorrupt(error)) throw error;
      this.finding((error as Error).message);
      return false;
    }
  }

  private finding(sentence: string): void {
    this.report.corruptions++;
    this.log(`ERROR ${sentence}`);
  }
}
