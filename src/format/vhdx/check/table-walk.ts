// The walk of the block allocation table: where each block and each bitmap lies, and whether that can be true.
//
//   state that is unknown, or that the image cannot have    corruption
//   place off the file, in a region, in the log             corruption
//   two blocks or bitmaps in one place                      corruption, which shared-blocks.ts repairs
//   reserved bits                                           corruption
//   partially present block without a bitmap                corruption
//   space behind the last block                             leak, if a block has room there
//
// Space between blocks is no finding: the format has no list of free blocks, and every writer uses it again. Nothing is written here.

import { hexWords } from '../../../bytes/endian.ts';
import { type GuestCluster, hex, hostOffset } from '../../../bytes/offsets.ts';
import { SparseBitmap } from '../../../bytes/sparse-bitmap.ts';
import { type CheckReport, emptyCheckReport } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import {
  hasReservedBits,
  isZeroState,
  offsetOf,
  PAYLOAD_BLOCK_FULLY_PRESENT,
  PAYLOAD_BLOCK_NOT_PRESENT,
  PAYLOAD_BLOCK_PARTIALLY_PRESENT,
  PAYLOAD_BLOCK_ZERO,
  SB_BLOCK_NOT_PRESENT,
  SB_BLOCK_PRESENT,
  stateOf,
} from '../bat.ts';
import { BITMAP_BYTES, ENTRY_BYTES, Geometry } from '../geometry.ts';
import { MIB } from '../header/fields.ts';
import type { Layout } from '../header/layout.ts';
import { Places, takenIn } from '../places.ts';

const CHUNK_BYTES = 64 * 1024;

export interface Entry {
  readonly index: number;
  readonly low: number;
  readonly high: number;
}

/** Blocks in the place of another one that one repair separates. */
const MAX_SHARED = 65_536;

export interface TableCheck {
  /** its imageEndOffset is the end of the last MiB in use */
  readonly report: CheckReport;
  /** of the corruptions, those of places beyond the file, which was cut, perhaps inside one of them */
  readonly cutOff: number;
  /** blocks and bitmaps that lie where another one lies; they are counted as corruptions */
  readonly shared: readonly Entry[];
  /** MiB of the file that are in use */
  readonly used: SparseBitmap;
  /** an entry at the beginning of a sentence */
  readonly describe: (entry: Entry) => string;
}

/** @param logsShared false: whoever repairs them says so */
export function walkTable(
  layout: Layout,
  options: Pick<CheckOptions, 'log' | 'progress'>,
  logsShared: boolean,
): TableCheck {
  return new TableWalk(layout, options, logsShared).run();
}

class TableWalk {
  private readonly layout: Layout;
  private readonly options: Pick<CheckOptions, 'log' | 'progress'>;
  private readonly geometry: Geometry;
  private readonly report = emptyCheckReport('vhdx');
  private readonly fileLength: number;
  /** MiB of the file that are in use */
  private readonly used: SparseBitmap;
  private readonly places: Places;
  private readonly logsShared: boolean;
  private readonly shared: Entry[] = [];
  private cutOff = 0;
  private previousEnd = -1;
  private end = 0;
  /** a chunk has partially present blocks; the entry of its bitmap follows them */
  private needsBitmap = false;

  constructor(layout: Layout, options: Pick<CheckOptions, 'log' | 'progress'>, logsShared: boolean) {
    this.layout = layout;
    this.options = options;
    this.geometry = new Geometry(layout.disk);
    this.fileLength = layout.view.size();
    this.logsShared = logsShared;
    const { bat } = layout.regions;
    this.places = new Places(
      () => this.fileLength,
      takenIn(layout),
      () => bat,
    );
    this.used = new SparseBitmap(Math.ceil(this.fileLength / MIB));
    for (const { start, end } of [{ start: 0, end: MIB }, bat, ...takenIn(layout)]) this.take(start, end - start);
  }

  run(): TableCheck {
    const { fileLength, geometry, report } = this;
    report.totalClusters = geometry.blockCount;
    this.forEachEntry((entry) => {
      // behind the end of the disk a chunk may have entries that nobody reads
      const isOfDisk = geometry.isBitmapEntry(entry.index) || geometry.blockOfEntry(entry.index) < geometry.blockCount;
      if (!isOfDisk) return;
      if (hasReservedBits(entry.low)) this.corruption(entry, 'which has reserved bits that are set');
      if (geometry.isBitmapEntry(entry.index)) this.visitBitmap(entry);
      else this.visitBlock(entry);
    });
    report.imageEndOffset = this.end;
    const tail = this.layout.view.isDevice ? 0 : fileLength - this.end;
    report.leaks = Math.max(0, Math.floor(tail / geometry.blockBytes));
    const { cutOff, shared, used } = this;
    return { report, cutOff, shared, used, describe: (entry) => this.describe(entry) };
  }

  private visitBlock(entry: Entry): void {
    const { geometry, report } = this;
    const { parent, virtualSize } = this.layout.disk;
    const state = stateOf(entry.low);
    const host = offsetOf(entry.low, entry.high);
    if (state === PAYLOAD_BLOCK_NOT_PRESENT || state === PAYLOAD_BLOCK_ZERO) return;
    if (isZeroState(state)) {
      // the place may be kept for the block
      if (host !== 0) this.claim(entry, host, geometry.blockBytes, geometry.blockBytes);
      return;
    }
    const isPartial = state === PAYLOAD_BLOCK_PARTIALLY_PRESENT;
    if (state !== PAYLOAD_BLOCK_FULLY_PRESENT && !(isPartial && parent !== null)) {
      this.corruption(entry, `which has the state ${state}${isPartial ? ', and the image has no parent' : ''}`);
      return;
    }
    report.allocatedClusters++;
    if (this.previousEnd >= 0 && host !== this.previousEnd) report.fragmentedClusters++;
    this.previousEnd = host + geometry.blockBytes;
    if (isPartial) this.needsBitmap = true;
    // the last block of a disk may end with the disk
    const inDisk = Math.min(geometry.blockBytes, virtualSize - geometry.startOf(geometry.blockOfEntry(entry.index)));
    this.claim(entry, host, geometry.blockBytes, inDisk);
  }

  private visitBitmap(entry: Entry): void {
    const state = stateOf(entry.low);
    const isNeeded = this.needsBitmap;
    this.needsBitmap = false;
    if (state === SB_BLOCK_PRESENT) {
      this.claim(entry, offsetOf(entry.low, entry.high), BITMAP_BYTES, BITMAP_BYTES);
    } else if (state !== SB_BLOCK_NOT_PRESENT) {
      this.corruption(entry, `which has the state ${state}, and is the entry of a bitmap`);
    } else if (isNeeded) {
      this.corruption(entry, 'which has no bitmap, and blocks before it are partially present');
    }
  }

  /** @param needed bytes that the file must have of it */
  private claim(entry: Entry, host: number, bytes: number, needed: number): void {
    if (host < MIB || host + needed > this.fileLength) {
      if (host >= MIB) this.cutOff++;
      this.corruption(entry, `which is no place in this file of ${this.fileLength} bytes`);
    } else if (!this.places.hasRoomAt(host, bytes)) {
      this.corruption(entry, 'where something else lies, too');
    } else if (!this.take(host, bytes)) {
      const isKept = this.shared.length < MAX_SHARED;
      if (isKept) this.shared.push(entry);
      this.corruption(entry, 'where another block lies, too', this.logsShared || !isKept);
    }
  }

  /** @returns false if some of it was in use already */
  private take(start: number, bytes: number): boolean {
    const first = start / MIB;
    const count = bytes / MIB;
    const isFree = !this.used.hasAny(first, count);
    this.used.addRun(first, count);
    this.end = Math.max(this.end, start + bytes);
    return isFree;
  }

  private forEachEntry(visit: (entry: Entry) => void): void {
    const { options, report } = this;
    const { regions, view } = this.layout;
    const bytes = this.geometry.entryCount * ENTRY_BYTES;
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
    const words = new DataView(chunk.buffer);
    const { chunkRatio } = this.geometry;
    let untilBitmap = chunkRatio;
    for (let done = 0; done < bytes; done += chunk.length) {
      const part = Math.min(chunk.length, bytes - done);
      const got = view.read(chunk, 0, part, hostOffset(regions.bat.start + done));
      if (got < part) {
        report.checkErrors++;
        options.log(
          `The block allocation table ends beyond the file, at offset ${hex(regions.bat.start + done + got)}`,
        );
        return;
      }
      for (let at = 0; at < part; at += ENTRY_BYTES) {
        const low = words.getUint32(at, true);
        const high = words.getUint32(at + 4, true);
        const isBitmap = untilBitmap === 0;
        untilBitmap = isBitmap ? chunkRatio : untilBitmap - 1;
        // most entries of a large disk
        const hasNothing = high === 0 && (low === PAYLOAD_BLOCK_NOT_PRESENT || low === PAYLOAD_BLOCK_ZERO);
        if (hasNothing && !isBitmap) continue;
        visit({ index: (done + at) / ENTRY_BYTES, low, high });
      }
      options.progress?.((done + part) / bytes);
    }
  }

  private corruption(entry: Entry, what: string, isLogged = true): void {
    this.report.corruptions++;
    if (isLogged) this.options.log(`ERROR ${this.describe(entry)}, ${what}`);
  }

  private describe({ high, index, low }: Entry): string {
    const { geometry } = this;
    const at = this.layout.regions.bat.start + index * ENTRY_BYTES;
    const block: GuestCluster = geometry.blockOfEntry(index);
    const of = geometry.isBitmapEntry(index) ? 'a bitmap' : `guest offset ${hex(geometry.startOf(block))}`;
    return `BAT entry ${index} at offset ${hex(at)} (${of}) is ${hexWords(high, low)}`;
  }
}
