// Check and repair of a QED image: which host clusters are referred to, by what, and whether that can be true.
//
//   L1 or L2 entry that is no cluster of the file      corruption; repaired by setting it to 0 (its old value is reported)
//   cluster with two references                        corruption; repaired by copying it, so that both keep their data;
//                                                      of a table and data, the table is the copy, since its entries change
//   cluster without a reference                        leak; reclaimed when the image is opened read-write and closed
//
// Invariant: without repair nothing is written, and a repair writes an entry only after what it will refer to is durable.

import { combine, hexWords, writeU64LE } from '../../bytes/endian.ts';
import { hex, hostOffset, roundDown, roundUp } from '../../bytes/offsets.ts';
import { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../check-report.ts';
import type { CheckOptions } from '../image-format.ts';
import { completeFile } from '../truncated-copy.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import type { QedHeader } from './header.ts';
import { UNALLOCATED_ENTRY, ZERO_ENTRY } from './table.ts';

const CHUNK_BYTES = 64 * 1024;
const COPY_BYTES = 1024 * 1024;

export interface QedCheck {
  readonly report: CheckReport;
  /** host clusters in use, the header and all tables included */
  readonly used: SparseBitmap;
  /** of the corruptions, those where two entries share a cluster */
  readonly doubleReferences: number;
}

/** Walks every table. With repair 'all' each corruption is repaired on the way; leaks are only counted. */
export function checkTables(file: HostFile, header: QedHeader, options: CheckOptions): QedCheck {
  return new TableWalk(file, header, options).run();
}

class TableWalk {
  private readonly file: HostFile;
  private readonly header: QedHeader;
  private readonly options: CheckOptions;
  private readonly geometry: Geometry;
  private readonly report: CheckReport = emptyCheckReport('qed');
  private readonly used: SparseBitmap;
  /** clusters of L2 tables that hold data, too */
  private readonly contested = new SparseBitmap();
  private readonly l1End: number;
  /** as if the file had all of its L1 table: what is missing of it reads as zeros */
  private fileEnd: number;
  /** before copies were put behind it: an entry that leads beyond this leads to nothing, and never to a copy */
  private readonly foundEnd: number;
  private doubleReferences = 0;
  private previousData = 0;
  /** the part of a table that is visited */
  private readonly chunk: Uint8Array;
  private readonly words: DataView;

  constructor(file: HostFile, header: QedHeader, options: CheckOptions) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.geometry = new Geometry(header.clusterSize, header.tableSizeClusters);
    this.l1End = header.l1TableOffset + this.geometry.tableBytes;
    this.fileEnd = Math.max(roundUp(file.size(), header.clusterSize), this.l1End);
    this.foundEnd = this.fileEnd;
    this.used = new SparseBitmap(this.fileEnd / header.clusterSize);
    this.chunk = new Uint8Array(Math.min(CHUNK_BYTES, this.geometry.tableBytes));
    this.words = new DataView(this.chunk.buffer);
  }

  run(): QedCheck {
    const { header, geometry, report, used } = this;
    this.checkL1Whole();
    if (this.options.repair === 'all') {
      this.completeLastCluster();
      this.findContested();
    }
    this.mark(0, header.headerSizeClusters * header.clusterSize);
    this.mark(header.l1TableOffset, geometry.tableBytes);
    report.totalClusters = Math.ceil(header.imageSize / geometry.clusterSize);
    const tables = this.checkL1();
    for (const [position, { l1Index, table }] of tables.entries()) {
      this.checkL2(l1Index, table);
      this.options.progress?.((position + 1) / tables.length);
    }
    // what a file that ends before its L1 table has lost says nothing of leaks
    const isCut = this.file.size() < this.l1End;
    report.leaks = isCut ? 0 : this.fileEnd / geometry.clusterSize - used.count;
    if (report.leaks > 0) this.options.log(`Leaked clusters: ${report.leaks} of the file are not referred to`);
    if (report.corruptionsFixed > 0) this.file.sync();
    return { report, used, doubleReferences: this.doubleReferences };
  }

  /** A file that was cut before or inside its L1 table: what is missing reads as zeros, and a repair makes the file so long. */
  private checkL1Whole(): void {
    const size = this.file.size();
    if (size >= this.l1End) return;
    this.report.corruptions++;
    if (this.options.repair !== 'all') {
      this.options.log(
        `ERROR the file of ${size} bytes ends before its L1 table does, at ${this.l1End}: it is truncated`,
      );
      return;
    }
    completeFile(this.file, this.header.l1TableOffset, this.l1End);
    this.report.corruptionsFixed++;
    this.options.log(
      `Repaired the length of the file: its ${size} bytes ended before its L1 table; it has ${this.l1End} now, and what the ` +
        'missing part mapped reads as zeros',
    );
  }

  /** A file that was cut inside a cluster: the rest of it reads as zeros, for a table as unallocated entries. */
  private completeLastCluster(): void {
    const size = this.file.size();
    if (size === this.fileEnd) return;
    this.file.truncate(this.fileEnd);
    this.file.sync();
    this.options.log(`Repaired the length of the file: ${size} bytes end inside a cluster; it is ${this.fileEnd} now`);
  }

  /** Which tables must be copied before their entries are repaired, however they overlap each other. */
  private findContested(): void {
    const { clusterSize, tableBytes } = this.geometry;
    const tables = new Set<number>();
    const places = new SparseBitmap();
    this.forEachEntry(this.header.l1TableOffset, (_, table) => {
      if (!this.isTable(table)) return;
      tables.add(table);
      for (let at = table; at < table + tableBytes; at += clusterSize) places.add(at / clusterSize);
    });
    for (const table of tables) {
      this.forEachEntry(table, (_, data) => {
        if (!this.isCluster(data, clusterSize) || !places.has(data / clusterSize)) return;
        // an entry that names its own table is a bad one
        if (data < table || data >= table + tableBytes) this.contested.add(data / clusterSize);
      });
    }
  }

  /** Every L2 table that can be walked. */
  private checkL1(): { l1Index: number; table: number }[] {
    const tables: { l1Index: number; table: number }[] = [];
    const { header, geometry } = this;
    this.forEachEntry(header.l1TableOffset, (index, entry, high, low) => {
      const says = (what: string) =>
        `L1 entry ${index} at offset ${hex(header.l1TableOffset + index * ENTRY_BYTES)}: ${what.replace('%', hexWords(high, low))}`;
      if (!this.isTable(entry)) {
        this.dropEntry(header.l1TableOffset, index, says('% is no place for an L2 table in this file'));
        return;
      }
      let table = entry;
      if ([this.used, this.contested].some((clusters) => this.hasAny(clusters, entry, geometry.tableBytes))) {
        const copied = this.copyEntry(
          header.l1TableOffset,
          index,
          entry,
          geometry.tableBytes,
          says('the table at % is used twice'),
        );
        if (copied === 0) return;
        table = copied;
      }
      this.mark(table, geometry.tableBytes);
      tables.push({ l1Index: index, table });
    });
    return tables;
  }

  private checkL2(l1Index: number, table: number): void {
    this.forEachPart(table, (words, start) => {
      for (let at = 0; at < words.byteLength; ) {
        const low = words.getInt32(at, true);
        const high = words.getInt32(at + 4, true);
        if (high === 0 && (low === UNALLOCATED_ENTRY || low === ZERO_ENTRY)) {
          at += ENTRY_BYTES;
          continue;
        }
        const count = this.runLength(words, at);
        if (!this.markRun(combine(high >>> 0, low >>> 0), count)) {
          for (let i = 0; i < count; i++) {
            const entryAt = at + i * ENTRY_BYTES;
            const [entryLow, entryHigh] = [words.getUint32(entryAt, true), words.getUint32(entryAt + 4, true)];
            this.checkEntry(l1Index, table, (start + entryAt) / ENTRY_BYTES, entryHigh, entryLow);
          }
        }
        at += count * ENTRY_BYTES;
      }
    });
  }

  /** Number of entries from `at` on that lead to adjoining clusters of the file; 1 if the first one leads to none. */
  private runLength(words: DataView, at: number): number {
    const { clusterSize } = this.geometry;
    let low = words.getInt32(at, true);
    let high = words.getInt32(at + 4, true);
    const host = combine(high >>> 0, low >>> 0);
    if (!this.isCluster(host, clusterSize)) return 1;
    const most = Math.min((words.byteLength - at) / ENTRY_BYTES, (this.foundEnd - host) / clusterSize);
    let count = 1;
    for (let next = at + ENTRY_BYTES; count < most; next += ENTRY_BYTES) {
      low = (low + clusterSize) | 0;
      if (low === 0) high = (high + 1) | 0;
      if (words.getInt32(next, true) !== low || words.getInt32(next + 4, true) !== high) break;
      count++;
    }
    return count;
  }

  /** Marks data clusters. @returns false, and nothing is done, if one of them is none or is in use */
  private markRun(host: number, count: number): boolean {
    return this.isCluster(host, this.geometry.clusterSize) && this.markClusters(host, count);
  }

  private markClusters(host: number, count: number): boolean {
    const { clusterSize } = this.geometry;
    const { report } = this;
    const first = host / clusterSize;
    if (count === 1) {
      if (!this.used.add(first)) return false;
    } else {
      if (this.used.hasAny(first, count)) return false;
      this.used.addRun(first, count);
    }
    report.imageEndOffset = Math.max(report.imageEndOffset, host + count * clusterSize);
    report.allocatedClusters += count;
    if (this.previousData !== 0 && host !== this.previousData + clusterSize) report.fragmentedClusters++;
    this.previousData = host + (count - 1) * clusterSize;
    return true;
  }

  /** An entry that is set, and that may be wrong: it is reported, and repaired. */
  private checkEntry(l1Index: number, table: number, index: number, high: number, low: number): void {
    const entry = combine(high, low);
    const { clusterSize } = this.geometry;
    if (this.markRun(entry, 1)) return;
    const isCluster = this.isCluster(entry, clusterSize);
    const value = hexWords(high, low);
    const what = isCluster ? `the cluster at ${value} is used twice` : `${value} is not a cluster of this file`;
    const sentence = this.aboutL2(l1Index, table, index, what);
    if (!isCluster) {
      this.dropEntry(table, index, sentence);
      return;
    }
    const copied = this.copyEntry(table, index, entry, clusterSize, sentence);
    if (copied !== 0) this.markClusters(copied, 1);
  }

  /** Visits the entries that are not 0, in order; `entry` is NaN when it is no safe integer. */
  private forEachEntry(table: number, visit: (index: number, entry: number, high: number, low: number) => void): void {
    this.forEachPart(table, (words, start) => {
      for (let at = 0; at < words.byteLength; at += ENTRY_BYTES) {
        const low = words.getUint32(at, true);
        const high = words.getUint32(at + 4, true);
        if (low === UNALLOCATED_ENTRY && high === 0) continue;
        visit((start + at) / ENTRY_BYTES, combine(high, low), high, low);
      }
    });
  }

  /**
   * Visits what the file has of a table, in order; a visit must not begin another one. Holes of the file are passed over, so
   * that a sparse image with tables of gigabytes costs no more time than it has data.
   */
  private forEachPart(table: number, visit: (words: DataView, start: number) => void): void {
    const { chunk } = this;
    const { tableBytes } = this.geometry;
    for (let start = 0; start < tableBytes; start += chunk.length) {
      // the end of the file is a hole as well
      const data = this.file.seekData(hostOffset(table + start)) - table;
      if (data >= tableBytes || table + start >= this.file.size()) return;
      start = Math.max(start, roundDown(data, chunk.length));
      const got = this.file.read(chunk, 0, chunk.length, hostOffset(table + start));
      if (got < chunk.length) {
        if (table !== this.header.l1TableOffset) this.report.checkErrors++;
        this.options.log(`The table at offset ${hex(table)} ends beyond the file`);
        chunk.fill(0, got);
      }
      visit(this.words, start);
    }
  }

  private aboutL2(l1Index: number, table: number, index: number, what: string): string {
    const guest = (l1Index * this.geometry.tableEntries + index) * this.geometry.clusterSize;
    return `L2 entry ${index} at offset ${hex(table + index * ENTRY_BYTES)} (guest offset ${hex(guest)}): ${what}`;
  }

  private dropEntry(table: number, index: number, sentence: string): void {
    this.report.corruptions++;
    if (this.options.repair !== 'all') {
      this.options.log(`ERROR ${sentence}`);
      return;
    }
    this.writeEntry(table, index, UNALLOCATED_ENTRY);
    this.report.corruptionsFixed++;
    this.options.log(`Repaired ${sentence}; it is 0 now`);
  }

  /** Gives the second user of a cluster or table its own copy at the end of the file. @returns its offset, or 0 */
  private copyEntry(table: number, index: number, from: number, length: number, sentence: string): number {
    this.report.corruptions++;
    this.doubleReferences++;
    if (this.options.repair !== 'all') {
      this.options.log(`ERROR ${sentence}`);
      return 0;
    }
    const to = this.fileEnd;
    this.file.truncate(to + length);
    this.fileEnd = to + length;
    const buffer = new Uint8Array(Math.min(COPY_BYTES, length));
    for (let done = 0; done < length; done += buffer.length) {
      const got = this.file.read(buffer, 0, buffer.length, hostOffset(from + done));
      this.file.write(buffer, 0, got, hostOffset(to + done));
    }
    this.file.sync();
    this.writeEntry(table, index, to);
    this.report.corruptionsFixed++;
    this.options.log(`Repaired ${sentence}; the second user has a copy at ${hex(to)} now`);
    return to;
  }

  private writeEntry(table: number, index: number, value: number): void {
    const bytes = new Uint8Array(ENTRY_BYTES);
    writeU64LE(new DataView(bytes.buffer), 0, value);
    this.file.write(bytes, 0, ENTRY_BYTES, hostOffset(table + index * ENTRY_BYTES));
  }

  private isCluster(entry: number, bytes: number): boolean {
    return entry % this.geometry.clusterSize === 0 && entry > 0 && entry + bytes <= this.foundEnd;
  }

  /** Inside the file, and neither in the header nor in the L1 table. */
  private isTable(entry: number): boolean {
    const { headerSizeClusters, clusterSize, l1TableOffset } = this.header;
    const { tableBytes } = this.geometry;
    if (!this.isCluster(entry, tableBytes) || entry < headerSizeClusters * clusterSize) return false;
    return entry >= l1TableOffset + tableBytes || entry + tableBytes <= l1TableOffset;
  }

  private hasAny(clusters: SparseBitmap, offset: number, bytes: number): boolean {
    const { clusterSize } = this.geometry;
    return clusters.hasAny(offset / clusterSize, bytes / clusterSize);
  }

  private mark(offset: number, bytes: number): void {
    const { clusterSize } = this.geometry;
    this.used.addRun(offset / clusterSize, bytes / clusterSize);
    this.report.imageEndOffset = Math.max(this.report.imageEndOffset, offset + bytes);
  }
}
