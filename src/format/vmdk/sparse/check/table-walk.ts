// The walk of directories and grain tables: which sectors of the file are in use, by what, and whether that can be true.
//
//   directory entry that is no place for a table         corruption
//   table entry that is no place for a grain             corruption
//   grain with two references                            corruption
//   copies of the tables that differ                     corruption, for each entry
//   last grain cut by the end of the file                told by `cutEnd`; the rest of it reads as zeros
//   room for grains behind everything that is in use     leak
//
// Space between grains is no finding: there is no list of free ones, and a read-write open uses it again. Invariant: the walk writes nothing; what it finds is repaired by repair.ts.

import { hex, hostOffset, SECTOR_BYTES } from '../../../../bytes/offsets.ts';
import { SparseBitmap } from '../../../../bytes/sparse-bitmap.ts';
import type { HostFile } from '../../../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../../../check-report.ts';
import { GridVote } from '../geometry.ts';
import { ENTRY_BYTES } from '../header.ts';
import { directoryEntries, metadataOf, type TableLayout } from '../layout.ts';

const CHUNK_ENTRIES = 16 * 1024;

export interface WalkOptions {
  readonly log: (sentence: string) => void;
  readonly progress?: (fraction: number) => void;
}

/** One table that a directory refers to, perhaps in two copies; 0: it is not there, or not where a table can be. */
export interface TablePair {
  readonly directoryIndex: number;
  readonly table: number;
  readonly second: number;
}

export interface TableWalk {
  readonly report: CheckReport;
  /** sectors in use */
  readonly used: SparseBitmap;
  /** of those, header, descriptor, directories and tables */
  readonly metadata: SparseBitmap;
  /** end of the last grain and of all metadata, in bytes */
  readonly usedEnd: number;
  /** end of the last grain, if the file ends inside it; else 0 */
  readonly cutEnd: number;
  /** of the grid of most grains */
  readonly phase: number;
  /** of the corruptions, grains that are used twice */
  readonly doubleReferences: number;
  /** directory entries by which a repair begins: something of them, or of their tables, is wrong */
  readonly damaged: SparseBitmap;
}

export function walkTables(file: HostFile, layout: TableLayout, options: WalkOptions): TableWalk {
  return new Walk(file, layout, options).run();
}

/** Reads the directory entries, and checks whether they are places for tables. */
export class Directories {
  readonly metadata: SparseBitmap;
  /** entries of the first and of the second directory that are no places for tables */
  readonly bad = [new SparseBitmap(), new SparseBitmap()] as const;
  private readonly file: HostFile;
  private readonly layout: TableLayout;
  private readonly tableSectors: number;
  private readonly fileSectors: number;

  constructor(file: HostFile, layout: TableLayout) {
    this.file = file;
    this.layout = layout;
    this.tableSectors = (layout.tableEntries * ENTRY_BYTES) / SECTOR_BYTES;
    this.fileSectors = Math.floor(file.size() / SECTOR_BYTES);
    this.metadata = new SparseBitmap(this.fileSectors);
    for (const { start, end } of metadataOf(layout)) {
      const first = Math.floor(start / SECTOR_BYTES);
      this.metadata.addRun(first, Math.ceil(end / SECTOR_BYTES) - first);
    }
  }

  /** Marks the tables that are where tables can be. @param found called for each entry that is none */
  mark(found: (copy: 0 | 1, index: number, entry: number) => void): void {
    this.forEach((index, first, second) => {
      if (first !== 0 && !this.take(first)) {
        this.bad[0].add(index);
        found(0, index, first);
      }
      if (second !== 0 && second !== first && !this.take(second)) {
        this.bad[1].add(index);
        found(1, index, second);
      }
    });
  }

  private take(sector: number): boolean {
    const { metadata, tableSectors } = this;
    if (sector + tableSectors > this.fileSectors || metadata.hasAny(sector, tableSectors)) return false;
    metadata.addRun(sector, tableSectors);
    return true;
  }

  /** Visits the pairs after mark(), in order. */
  forEachPair(visit: (pair: TablePair) => void): void {
    const [bad, badSecond] = this.bad;
    this.forEach((directoryIndex, first, second) => {
      const table = bad.has(directoryIndex) ? 0 : first * SECTOR_BYTES;
      const isOwn = second !== first && !badSecond.has(directoryIndex);
      visit({ directoryIndex, table, second: isOwn ? second * SECTOR_BYTES : 0 });
    });
  }

  /** Visits the entries of both directories side by side; the second is 0 if there is none. */
  forEach(visit: (index: number, first: number, second: number) => void): void {
    const { directoryOffset, redundantOffset } = this.layout;
    const count = directoryEntries(this.layout);
    for (let start = 0; start < count; start += CHUNK_ENTRIES) {
      const part = Math.min(CHUNK_ENTRIES, count - start);
      const first = readEntries(this.file, directoryOffset + start * ENTRY_BYTES, part);
      const second = redundantOffset === 0 ? null : readEntries(this.file, redundantOffset + start * ENTRY_BYTES, part);
      for (let i = 0; i < part; i++) visit(start + i, first[i]!, second?.[i] ?? 0);
    }
  }
}

/** @returns `count` entries; those beyond the end of the file are 0 */
export function readEntries(file: HostFile, offset: number, count: number): Uint32Array {
  const bytes = new Uint8Array(count * ENTRY_BYTES);
  file.read(bytes, 0, bytes.length, hostOffset(offset));
  const view = new DataView(bytes.buffer);
  const entries = new Uint32Array(count);
  for (let i = 0; i < count; i++) entries[i] = view.getUint32(i * ENTRY_BYTES, true);
  return entries;
}

class Walk {
  private readonly file: HostFile;
  private readonly layout: TableLayout;
  private readonly options: WalkOptions;
  private readonly report = emptyCheckReport('vmdk');
  private readonly directories: Directories;
  private readonly grains: SparseBitmap;
  private readonly damaged = new SparseBitmap();
  private readonly vote: GridVote;
  private readonly grainSectors: number;
  private readonly fileBytes: number;
  private readonly fileSectors: number;
  private usedEnd: number;
  private doubleReferences = 0;
  /** sectors of grains that follow each other, which are not in `grains` yet */
  private runStart = 0;
  private runEnd = 0;
  /** end of the last grain in the file so far */
  private highest = 0;

  constructor(file: HostFile, layout: TableLayout, options: WalkOptions) {
    this.file = file;
    this.layout = layout;
    this.options = options;
    this.directories = new Directories(file, layout);
    this.vote = new GridVote(layout.grainBytes);
    this.grainSectors = layout.grainBytes / SECTOR_BYTES;
    // asked once: it is a system call
    this.fileBytes = file.size();
    this.fileSectors = Math.ceil(this.fileBytes / SECTOR_BYTES);
    this.grains = new SparseBitmap(this.fileSectors);
    this.usedEnd = Math.max(layout.leastBytes, ...metadataOf(layout).map(({ end }) => end));
  }

  run(): TableWalk {
    const { directories, layout, report } = this;
    const count = directoryEntries(layout);
    report.totalClusters = Math.ceil(layout.capacity / layout.grainBytes);
    directories.mark((copy, index, entry) => this.badTable(copy, index, entry));
    directories.forEachPair((pair) => {
      this.checkPair(pair);
      this.options.progress?.((pair.directoryIndex + 1) / count);
    });
    this.closeRun();
    const grainsEnd = this.highest * SECTOR_BYTES;
    this.usedEnd = Math.max(this.usedEnd, grainsEnd);
    const cutEnd = grainsEnd > this.fileBytes ? grainsEnd : 0;
    const { metadata } = directories;
    const { damaged, doubleReferences, grains: used, vote } = this;
    // metadata takes whole runs: what lies between its gaps
    let at = 0;
    for (const gap of [...metadata.gaps(this.fileSectors), { start: this.fileSectors, end: this.fileSectors }]) {
      used.addRun(at, gap.start - at);
      at = gap.end;
    }
    used.addRun(0, Math.ceil(layout.leastBytes / SECTOR_BYTES));
    const phase = vote.winner();
    report.imageEndOffset = this.usedEnd;
    report.leaks = Math.max(0, Math.floor((this.fileBytes - this.usedEnd) / layout.grainBytes));
    return { report, used, metadata, usedEnd: this.usedEnd, cutEnd, phase, doubleReferences, damaged };
  }

  private badTable(copy: 0 | 1, index: number, entry: number): void {
    const directory = copy === 0 ? this.layout.directoryOffset : this.layout.redundantOffset;
    const at = hex(directory + index * ENTRY_BYTES);
    const which = copy === 0 ? 'grain directory' : 'redundant grain directory';
    this.corruption(index, `${which} entry ${index} at offset ${at} is sector ${hex(entry)}, no place for a table`);
  }

  private checkPair(pair: TablePair): void {
    const { file, layout } = this;
    const { directoryIndex, second, table } = pair;
    const hasOne = table !== 0 || second !== 0;
    const isHalf = layout.redundantOffset !== 0 && (table === 0 || second === 0);
    if (hasOne && isHalf) this.checkHalf(pair);
    if (table !== 0) this.usedEnd = Math.max(this.usedEnd, table + layout.tableEntries * ENTRY_BYTES);
    if (second !== 0) this.usedEnd = Math.max(this.usedEnd, second + layout.tableEntries * ENTRY_BYTES);
    if (table === 0) return;
    const entries = readEntries(file, table, layout.tableEntries);
    const copies = second === 0 ? null : readEntries(file, second, layout.tableEntries);
    for (let index = 0; index < entries.length; index++) {
      const entry = entries[index]!;
      if (copies !== null && copies[index] !== entry) {
        const at = this.about(directoryIndex, index, table);
        this.corruption(
          directoryIndex,
          `${at} is sector ${hex(entry)}, and ${hex(copies[index]!)} in the second table`,
        );
      }
      if (entry !== 0) this.checkEntry(directoryIndex, index, table, entry);
    }
  }

  /** A table in one directory only. What is wrong with a bad entry was said before. */
  private checkHalf({ directoryIndex, table }: TablePair): void {
    const [bad, badSecond] = this.directories.bad;
    if (bad.has(directoryIndex) || badSecond.has(directoryIndex)) return;
    if (table !== 0 && this.isShared(directoryIndex)) return;
    const which = table === 0 ? 'second' : 'first';
    this.corruption(
      directoryIndex,
      `directory entry ${directoryIndex} refers to a table in the ${which} directory only`,
    );
  }

  /** Both directories refer to one table, which then has no second copy. */
  private isShared(index: number): boolean {
    const { directoryOffset, redundantOffset } = this.layout;
    const [first] = readEntries(this.file, directoryOffset + index * ENTRY_BYTES, 1);
    const [second] = readEntries(this.file, redundantOffset + index * ENTRY_BYTES, 1);
    return first === second;
  }

  private checkEntry(directoryIndex: number, index: number, table: number, entry: number): void {
    const { grainSectors, layout, report } = this;
    if (entry === 1 && layout.hasZeroGrains) return;
    if (entry >= this.fileSectors || this.directories.metadata.hasAny(entry, grainSectors)) {
      const why = entry >= this.fileSectors ? 'beyond the end of the file' : 'where the metadata is';
      this.corruption(directoryIndex, `${this.about(directoryIndex, index, table)} is sector ${hex(entry)}, ${why}`);
      return;
    }
    if (this.isTaken(entry, entry + grainSectors)) {
      this.doubleReferences++;
      this.corruption(
        directoryIndex,
        `${this.about(directoryIndex, index, table)}: the grain at sector ${hex(entry)} is used twice`,
      );
      return;
    }
    report.allocatedClusters++;
    this.add(entry, entry + grainSectors);
  }

  private isTaken(start: number, end: number): boolean {
    if (start >= this.highest) return false;
    return (start < this.runEnd && end > this.runStart) || this.grains.hasAny(start, end - start);
  }

  private add(start: number, end: number): void {
    this.vote.add(start * SECTOR_BYTES);
    if (end > this.highest) this.highest = end;
    if (start !== this.runEnd) {
      if (this.runEnd > 0) this.report.fragmentedClusters++;
      this.closeRun();
      this.runStart = start;
    }
    this.runEnd = end;
  }

  private closeRun(): void {
    this.grains.addRun(this.runStart, this.runEnd - this.runStart);
  }

  private about(directoryIndex: number, index: number, table: number): string {
    const guest = (directoryIndex * this.layout.tableEntries + index) * this.layout.grainBytes;
    return `grain table entry ${index} at offset ${hex(table + index * ENTRY_BYTES)} (guest offset ${hex(guest)} of the extent)`;
  }

  private corruption(directoryIndex: number, sentence: string): void {
    this.damaged.add(directoryIndex);
    this.report.corruptions++;
    this.options.log(`ERROR ${sentence}`);
  }
}
