// Check and repair of the block allocation table: where each block lies, and whether that can be true.
//
//   entry that is no place for a block in this file    corruption; never repaired, because its data may be somewhere
//   blocks that overlap                                corruption; repaired by copying the second one, so that both keep their data,
//                                                      unless an entry leads beyond the file: a copy there would seem to be its block
//   space between the last block and the footer        leak, if a block has room there; cut off
//
// Space between blocks is no finding: the format has no list of free blocks, and a read-write open uses it again. Invariant: without
// repair nothing is written, and a repair writes an entry only after what it will refer to is durable.

import { hex, hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import { MAX_FILE_BYTES } from '../../mapped/space/room-end.ts';
import { type BatmapPlace, findBatmap } from '../batmap.ts';
import { FOOTER_BYTES } from '../header/footer.ts';
import { bitmapBytesOf, ENTRY_BYTES, HEADER_BYTES, tableBytesOf } from '../header/header.ts';
import type { SparseLayout } from '../header/layout.ts';
import { faultOf } from '../header/locator.ts';
import { UNUSED_ENTRY } from '../table.ts';

const CHUNK_BYTES = 64 * 1024;
const COPY_BYTES = 1024 * 1024;

/** Bytes [start, end) of the file. */
export interface Stretch {
  readonly start: number;
  readonly end: number;
}

export interface TableCheck {
  readonly report: CheckReport;
  /** sectors at which blocks begin, ascending */
  readonly starts: Uint32Array;
  /** what else the file has, its footer aside, ascending */
  readonly metadata: readonly Stretch[];
  /** end of the last of both */
  readonly usedEnd: number;
  /** of the corruptions, those where two blocks overlap */
  readonly overlaps: number;
  /** and those where a block would end beyond the file, which was cut, perhaps inside it */
  readonly cutOff: number;
  readonly batmap: BatmapPlace | null;
  /** entries behind the end of the disk are no places in this file */
  readonly hasStrays: boolean;
}

/** The stretches between what the file has, ascending; nothing refers to them. */
export function* gapsIn({ metadata, starts }: TableCheck, blockBytes: number): Generator<Stretch> {
  let end = 0;
  let part = 0;
  for (let block = 0; block < starts.length || part < metadata.length; ) {
    const start = block < starts.length ? starts[block]! * SECTOR_BYTES : Number.POSITIVE_INFINITY;
    const other = metadata[part];
    const next = other !== undefined && other.start < start ? other : { start, end: start + blockBytes };
    if (next === other) part++;
    else block++;
    if (next.start > end) yield { start: end, end: next.start };
    end = Math.max(end, next.end);
  }
}

/** Footers and the header are checked already. With repair 'all' overlaps are repaired on the way. */
export function checkTable(file: HostFile, layout: SparseLayout, options: CheckOptions): TableCheck {
  return new TableWalk(file, layout, options).run();
}

class TableWalk {
  private readonly file: HostFile;
  private readonly layout: SparseLayout;
  private readonly options: CheckOptions;
  private readonly report = emptyCheckReport('vpc');
  private readonly blockBytes: number;
  /** entries of blocks that the disk has; the table may have more */
  private readonly blocks: number;
  private readonly limit: number;
  private readonly batmap: BatmapPlace | null;
  private readonly metadata: readonly Stretch[];
  private starts = new Uint32Array(1024);
  private count = 0;
  private previous = 0;
  private overlaps = 0;
  private cutOff = 0;
  private hasStrays = false;
  /** the first overlap, by place */
  private readonly kept = new Map<number, number>();

  constructor(file: HostFile, layout: SparseLayout, options: CheckOptions) {
    this.file = file;
    this.layout = layout;
    this.options = options;
    const { header, size } = layout;
    this.blockBytes = bitmapBytesOf(header.blockSize) + header.blockSize;
    this.blocks = Math.ceil(size / header.blockSize);
    this.limit = layout.trailerOffset;
    const { creator } = layout.footer;
    this.batmap = findBatmap(file, creator, header.tableOffset, header.maxTableEntries);
    this.metadata = this.metadataStretches().sort((a, b) => a.start - b.start);
  }

  run(): TableCheck {
    const { metadata, report } = this;
    report.totalClusters = this.blocks;
    this.checkLocators();
    this.forEachEntry((index, sector) => this.checkPlace(index, sector));
    let starts = this.sorted();
    const overlapping = this.overlapping(starts);
    if (overlapping.size > 0) {
      this.repairOverlaps(overlapping);
      starts = this.sorted();
    }
    const last = starts.at(-1);
    const blocksEnd = last === undefined ? 0 : last * SECTOR_BYTES + this.blockBytes;
    const usedEnd = Math.max(blocksEnd, ...metadata.map(({ end }) => end));
    report.imageEndOffset = roundUp(usedEnd, SECTOR_BYTES) + FOOTER_BYTES;
    report.leaks = Math.max(0, Math.floor((this.file.size() - FOOTER_BYTES - usedEnd) / this.blockBytes));
    const { batmap, cutOff, hasStrays, overlaps } = this;
    return { report, starts, metadata, usedEnd, overlaps, cutOff, batmap, hasStrays };
  }

  private metadataStretches(): Stretch[] {
    const { batmap } = this;
    const { header } = this.layout;
    const at = (start: number, bytes: number): Stretch => ({ start, end: start + bytes });
    const names = header.locators
      .filter((locator) => faultOf(locator, this.file.size()) === null)
      .map(({ offset, length }) => at(offset, length));
    const stretches = [
      at(0, FOOTER_BYTES),
      at(header.offset, HEADER_BYTES),
      at(header.tableOffset, tableBytesOf(header.maxTableEntries)),
      ...names,
    ];
    if (batmap === null) return stretches;
    return [...stretches, at(batmap.offset, SECTOR_BYTES), at(batmap.bitsOffset, batmap.bitsBytes)];
  }

  private checkLocators(): void {
    for (const locator of this.layout.header.locators) {
      const fault = faultOf(locator, this.file.size());
      if (fault !== null) this.corruption(fault);
    }
  }

  private checkPlace(index: number, sector: number): void {
    const start = sector * SECTOR_BYTES;
    const isOfDisk = index < this.blocks;
    if (!this.isPlace(start)) {
      if (!isOfDisk) {
        // nobody reads what lies behind the end of the disk
        this.hasStrays = true;
        return;
      }
      if (this.isCutOff(start)) this.cutOff++;
      this.corruption(`${this.entry(index)} is sector ${sector}, which is no place for a block: ${this.whyNot(start)}`);
      return;
    }
    this.add(sector);
    if (!isOfDisk) return;
    const { report } = this;
    report.allocatedClusters++;
    const gap = start - this.previous - this.blockBytes;
    if (this.previous !== 0 && (gap < 0 || gap > 2 * 4096)) report.fragmentedClusters++;
    this.previous = start;
  }

  private isPlace(start: number): boolean {
    const end = start + this.blockBytes;
    return !this.isCutOff(start) && !this.metadata.some((stretch) => start < stretch.end && end > stretch.start);
  }

  private isCutOff(start: number): boolean {
    return start + this.blockBytes > this.limit;
  }

  private whyNot(start: number): string {
    return this.isCutOff(start)
      ? `it would end at ${hex(start + this.blockBytes)}, and the file ends at ${hex(this.limit)}`
      : 'metadata lies there';
  }

  private add(sector: number): void {
    if (this.count === this.starts.length) {
      const longer = new Uint32Array(this.count * 2);
      longer.set(this.starts);
      this.starts = longer;
    }
    this.starts[this.count++] = sector;
  }

  private sorted(): Uint32Array {
    return this.starts.slice(0, this.count).sort();
  }

  /** Sectors of all blocks that overlap another one. */
  private overlapping(starts: Uint32Array): Set<number> {
    const found = new Set<number>();
    const least = this.blockBytes / SECTOR_BYTES;
    for (let i = 1; i < starts.length; i++) {
      if (starts[i]! - starts[i - 1]! >= least) continue;
      found.add(starts[i - 1]!);
      found.add(starts[i]!);
    }
    return found;
  }

  /** Of blocks that overlap, the first in the table stays where it is. */
  private repairOverlaps(overlapping: Set<number>): void {
    this.count = 0;
    let end = this.file.size();
    this.forEachEntry((index, sector) => {
      const start = sector * SECTOR_BYTES;
      if (!this.isPlace(start)) return;
      if (!overlapping.has(sector) || this.keep(start)) {
        this.add(sector);
        return;
      }
      const sentence = `${this.entry(index)}: the block at ${hex(start)} overlaps another one`;
      this.overlaps++;
      if (this.options.repair !== 'all' || this.cutOff > 0 || end + this.blockBytes > MAX_FILE_BYTES) {
        this.corruption(sentence);
        this.add(sector);
        return;
      }
      const to = this.moveToEnd(index, start, end);
      end = to + this.blockBytes + FOOTER_BYTES;
      this.report.corruptions++;
      this.report.corruptionsFixed++;
      this.options.log(`Repaired ${sentence}; it has a copy at ${hex(to)} now`);
      this.add(to / SECTOR_BYTES);
    });
  }

  /** @returns whether a block can stay: it overlaps none that stays already */
  private keep(start: number): boolean {
    const place = Math.floor(start / this.blockBytes);
    for (const near of [place - 1, place, place + 1]) {
      const other = this.kept.get(near);
      if (other !== undefined && Math.abs(other - start) < this.blockBytes) return false;
    }
    this.kept.set(place, start);
    return true;
  }

  /** Copies a block behind the end of the file, the footer after it, and makes its entry refer to the copy. @returns its offset */
  private moveToEnd(index: number, from: number, end: number): number {
    const { file, blockBytes, layout } = this;
    const to = Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES;
    file.truncate(to + blockBytes + FOOTER_BYTES);
    file.write(layout.footer.bytes, 0, FOOTER_BYTES, hostOffset(to + blockBytes));
    const buffer = new Uint8Array(Math.min(COPY_BYTES, blockBytes));
    for (let done = 0; done < blockBytes; done += buffer.length) {
      const part = Math.min(buffer.length, blockBytes - done);
      file.read(buffer, 0, part, hostOffset(from + done));
      file.write(buffer, 0, part, hostOffset(to + done));
    }
    file.sync();
    const entry = new Uint8Array(ENTRY_BYTES);
    new DataView(entry.buffer).setUint32(0, to / SECTOR_BYTES, false);
    file.write(entry, 0, ENTRY_BYTES, hostOffset(layout.header.tableOffset + index * ENTRY_BYTES));
    file.sync();
    return to;
  }

  /** Visits the entries that are in use, in order. */
  private forEachEntry(visit: (index: number, sector: number) => void): void {
    const { tableOffset, maxTableEntries } = this.layout.header;
    const bytes = maxTableEntries * ENTRY_BYTES;
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
    const view = new DataView(chunk.buffer);
    for (let done = 0; done < bytes; done += chunk.length) {
      const part = Math.min(chunk.length, bytes - done);
      this.file.read(chunk, 0, part, hostOffset(tableOffset + done));
      for (let at = 0; at < part; at += ENTRY_BYTES) {
        const sector = view.getUint32(at, false);
        if (sector !== UNUSED_ENTRY) visit((done + at) / ENTRY_BYTES, sector);
      }
      this.options.progress?.((done + part) / bytes);
    }
  }

  private entry(index: number): string {
    const { blockSize, tableOffset } = this.layout.header;
    return `BAT entry ${index} at offset ${hex(tableOffset + index * ENTRY_BYTES)} (guest offset ${hex(index * blockSize)})`;
  }

  private corruption(sentence: string): void {
    this.report.corruptions++;
    this.options.log(`ERROR ${sentence}`);
  }
}
