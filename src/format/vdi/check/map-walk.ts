// Check and repair of a VDI image: which host blocks are referred to, by what, and whether that can be true.
//
//   entry that is no block of the file      corruption; a repair of all sets it to "free" (its old value is reported)
//   block with two references               corruption; repaired by copying it, so that both keep their data
//   cBlocksAllocated below the highest      corruption: other programs give that block out again; repaired by counting
//   last block cut by the end of the file   corruption; repaired with zeros, which is what a read of it gives
//   block without a reference, count or
//   length beyond the blocks in use         leak; reclaimed when the image is opened read-write and closed
//
// Invariant: without repair nothing is written, and a repair writes an entry only after what it will refer to is durable.

import { guestCluster, hex, hostOffset, roundDown } from '../../../bytes/offsets.ts';
import { SparseBitmap } from '../../../bytes/sparse-bitmap.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import { copyBytes } from '../../mapped/space/copy-bytes.ts';
import { ENTRY_BYTES, type Geometry } from '../geometry.ts';
import {
  ALLOCATED_AT,
  geometryOf,
  u32Field,
  VDI_IMAGE_BLOCK_FREE,
  VDI_IMAGE_BLOCK_ZERO,
  type VdiHeader,
  virtualSizeOf,
  writeHeaderFields,
} from '../header.ts';

const CHUNK_BYTES = 64 * 1024;

export interface VdiCheck {
  readonly report: CheckReport;
  /** host blocks in use */
  readonly used: SparseBitmap;
  /** the highest of them, and 1 */
  readonly end: number;
  /** of the corruptions, those of the map: entries that lead nowhere, and blocks that are used twice */
  readonly badEntries: number;
  readonly doubleReferences: number;
}

/** Walks the map. With repair 'all' each corruption is repaired on the way; leaks are only counted. */
export function checkMap(file: HostFile, header: VdiHeader, options: CheckOptions): VdiCheck {
  return new MapWalk(file, header, options).run();
}

class MapWalk {
  private readonly file: HostFile;
  private readonly header: VdiHeader;
  private readonly options: CheckOptions;
  private readonly geometry: Geometry;
  private readonly report: CheckReport = emptyCheckReport('vdi');
  private readonly used: SparseBitmap;
  /** blocks of the file, the last one perhaps cut, and no more than there are indices */
  private readonly fileBlocks: number;
  private end = 0;
  private badEntries = 0;
  private doubleReferences = 0;
  private previous = -1;
  /** no index below is unused */
  private unusedFrom = 0;

  constructor(file: HostFile, header: VdiHeader, options: CheckOptions) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.geometry = geometryOf(header);
    this.fileBlocks = this.geometry.blocksOf(file.size(), header.dataOffset);
    this.used = new SparseBitmap(Math.min(this.fileBlocks, header.blockCount));
  }

  run(): VdiCheck {
    const { header, options, report, used } = this;
    report.totalClusters = this.geometry.clustersFor(virtualSizeOf(header));
    const isRepair = options.repair === 'all';
    this.forEachEntry((block, entry) => this.visit(block, entry, isRepair));
    if (isRepair && this.badEntries + this.doubleReferences > 0) this.repairEntries();
    this.checkEnd(isRepair);
    this.checkCount(isRepair);
    report.imageEndOffset = this.geometry.hostStartOf(this.end, header.dataOffset);
    const { badEntries, doubleReferences, end } = this;
    return { report, used, end, badEntries, doubleReferences };
  }

  /** @param isQuiet the repair says what it does with the entry */
  private visit(block: number, entry: number, isQuiet: boolean): void {
    const { report } = this;
    if (!this.isBlock(entry)) {
      report.corruptions++;
      this.badEntries++;
      if (!isQuiet) this.options.log(`ERROR ${this.about(block, `${hex(entry)} is not a block of this file`)}`);
      return;
    }
    report.allocatedClusters++;
    if (this.previous >= 0 && entry !== this.previous + 1) report.fragmentedClusters++;
    this.previous = entry;
    this.end = Math.max(this.end, entry + 1);
    if (this.used.add(entry)) return;
    report.corruptions++;
    this.doubleReferences++;
    if (!isQuiet) this.options.log(`ERROR ${this.about(block, `the block with index ${entry} is used twice`)}`);
  }

  /** The second walk knows which blocks are in use, so it can take others for the copies. */
  private repairEntries(): void {
    const { file, geometry, header, options, report } = this;
    const { dataOffset } = header;
    const seen = new SparseBitmap(Math.min(this.fileBlocks, header.blockCount));
    // that nothing refers to an unused block may not be durable yet (R5)
    file.sync();
    this.forEachEntry((block, entry) => {
      if (!this.isBlock(entry)) {
        this.writeEntry(block, VDI_IMAGE_BLOCK_FREE);
        options.log(`Repaired ${this.about(block, `${hex(entry)} is not a block of this file`)}; it is free now`);
      } else if (seen.add(entry)) {
        return;
      } else {
        const copy = this.takeUnused();
        const end = geometry.hostStartOf(copy + 1, dataOffset);
        if (file.size() < end) file.truncate(end);
        file.punchHole(geometry.hostStartOf(copy, dataOffset), geometry.stride);
        copyBytes(
          file,
          geometry.hostStartOf(entry, dataOffset),
          geometry.hostStartOf(copy, dataOffset),
          geometry.stride,
        );
        file.sync();
        this.writeEntry(block, copy);
        const what = this.about(block, `the block with index ${entry} is used twice`);
        options.log(`Repaired ${what}; the second user has a copy with index ${copy} now`);
      }
      report.corruptionsFixed++;
    });
    file.sync();
  }

  /** There are as many indices as entries, and two of those had the same one. */
  private takeUnused(): number {
    while (this.used.has(this.unusedFrom)) this.unusedFrom++;
    const index = this.unusedFrom;
    this.used.add(index);
    this.end = Math.max(this.end, index + 1);
    return index;
  }

  private checkEnd(isRepair: boolean): void {
    const { file, geometry, header, options, report } = this;
    const size = file.size();
    const whole = geometry.hostStartOf(this.end, header.dataOffset);
    if (this.end === 0 || size >= whole) return;
    const what = `the last block: the file of ${size} bytes ends inside it, at ${whole - size} bytes before its end`;
    report.corruptions++;
    if (!isRepair) {
      options.log(`ERROR ${what}`);
      return;
    }
    file.truncate(whole);
    file.sync();
    report.corruptionsFixed++;
    options.log(`Repaired ${what}; the rest of it reads as zeros`);
  }

  private checkCount(isRepair: boolean): void {
    const { end, file, header, options, report, used } = this;
    const { allocated } = header;
    const fileBlocks = this.geometry.blocksOf(file.size(), header.dataOffset);
    report.leaks = Math.max(allocated, fileBlocks, end) - used.count;
    if (report.leaks > 0) {
      options.log(
        `Leaked blocks: ${report.leaks}; the header counts ${allocated}, the file has ${fileBlocks}, and ${used.count} are referred to`,
      );
    }
    if (allocated >= end) return;
    const what = `cBlocksAllocated is ${allocated}, and the block with index ${end - 1} is in use`;
    report.corruptions++;
    if (!isRepair) {
      options.log(`ERROR ${what}`);
      return;
    }
    writeHeaderFields(file, [u32Field(ALLOCATED_AT, end)]);
    file.sync();
    report.corruptionsFixed++;
    options.log(`Repaired ${what}; it is ${end} now`);
  }

  /** Visits the entries that are neither free nor discarded, in order. Entries behind the end of the disk are entries, too. */
  private forEachEntry(visit: (block: number, entry: number) => void): void {
    const { file, header, options } = this;
    const mapBytes = header.blockCount * ENTRY_BYTES;
    const chunk = new Uint8Array(roundDown(Math.min(CHUNK_BYTES, Math.max(mapBytes, ENTRY_BYTES)), ENTRY_BYTES));
    const words = new DataView(chunk.buffer);
    for (let start = 0; start < mapBytes; start += chunk.length) {
      const part = Math.min(chunk.length, mapBytes - start);
      const got = file.read(chunk, 0, part, hostOffset(header.mapOffset + start));
      if (got < part) {
        this.report.checkErrors++;
        options.log(`The map ends beyond the file, at offset ${hex(header.mapOffset + start + got)}`);
        return;
      }
      for (let at = 0; at < part; at += ENTRY_BYTES) {
        const entry = words.getUint32(at, true);
        if (entry < VDI_IMAGE_BLOCK_ZERO) visit((start + at) / ENTRY_BYTES, entry);
      }
      options.progress?.((start + part) / mapBytes);
    }
  }

  private isBlock(entry: number): boolean {
    return entry < this.header.blockCount && entry < this.fileBlocks;
  }

  private about(block: number, what: string): string {
    const guest = this.geometry.startOf(guestCluster(block));
    return `map entry ${block} at offset ${hex(this.header.mapOffset + block * ENTRY_BYTES)} (guest offset ${hex(guest)}): ${what}`;
  }

  private writeEntry(block: number, value: number): void {
    const bytes = new Uint8Array(ENTRY_BYTES);
    new DataView(bytes.buffer).setUint32(0, value, true);
    this.file.write(bytes, 0, ENTRY_BYTES, hostOffset(this.header.mapOffset + block * ENTRY_BYTES));
  }
}
