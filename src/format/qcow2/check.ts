// Check and repair of a qcow2 image: every reference from header, refcount structures, L1 and L2 tables of the active layer
// and of all snapshots, snapshot table, bitmaps and encryption header is counted and compared with the counters.
//
//   counter below the references   corruption; repaired by raising it
//   counter above the references   leak; repaired by lowering it
//   COPIED flag wrong              corruption; repaired by setting it as the counter says
//   entry that is no cluster       corruption; not repaired here: nothing safe can be put in its place
//
// Invariant: without repair nothing is written; counters are raised before flags are set and lowered after both are durable.

import { combine } from '../../bytes/endian.ts';
import { hex, hostOffset, roundUp } from '../../bytes/offsets.ts';
import { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import { createTableCacheState, TableCache } from '../../concurrency/table-cache.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../check-report.ts';
import type { CheckOptions } from '../image-format.ts';
import { createWriteTrackerState, WriteTracker } from '../write-tracker.ts';
import { bitmapRanges } from './bitmap-directory.ts';
import { parseCompressedDescriptor } from './compressed.ts';
import { Geometry } from './geometry.ts';
import type { Qcow2Header } from './header.ts';
import { Refcounts } from './refcount.ts';
import { ReferenceCounts } from './reference-counts.ts';
import { readSnapshotTable } from './snapshot-table.ts';
import { REFCOUNT_TABLE_ENTRIES, REFCOUNT_TABLE_OFFSET } from './state.ts';
import { subclusterFault } from './subcluster.ts';
import { isCompressed, isCopied, offsetOf, QCOW_OFLAG_COPIED, QCOW_OFLAG_ZERO, Tables } from './table.ts';

const CACHE_BYTES = 8 * 1024 * 1024;
/** Findings of one kind that are logged one by one. */
const MAX_LOGGED = 1000;

/** An active table entry whose COPIED flag is compared with the counter of what it refers to. */
interface Flagged {
  readonly at: number;
  readonly host: number;
  readonly copied: boolean;
}

/** A cluster whose counter is not the number of its references. */
interface Miscounted {
  readonly cluster: number;
  readonly references: number;
}

/** Walks everything. With repair, what can be repaired is; the report says what is left. */
export function checkReferences(file: HostFile, header: Qcow2Header, options: CheckOptions): CheckReport {
  return new ReferenceWalk(file, header, options).run();
}

class ReferenceWalk {
  private readonly file: HostFile;
  private readonly header: Qcow2Header;
  private readonly options: CheckOptions;
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly refcounts: Refcounts;
  private readonly report: CheckReport = emptyCheckReport('qcow2');
  private readonly references = new ReferenceCounts();
  private readonly flagged: Flagged[] = [];
  /** indices of the refcount blocks that count something */
  private readonly blocks: number[] = [];
  private readonly fileEnd: number;
  private logged = 0;
  private previousData = 0;

  constructor(file: HostFile, header: Qcow2Header, options: CheckOptions) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.geometry = new Geometry(header.clusterBits, header.refcountOrder, header.extendedL2);
    const { clusterSize } = this.geometry;
    this.fileEnd = roundUp(file.size(), clusterSize);
    const numbers = new Float64Array(REFCOUNT_TABLE_ENTRIES + 1);
    numbers[REFCOUNT_TABLE_OFFSET] = header.refcountTableOffset;
    numbers[REFCOUNT_TABLE_ENTRIES] = (header.refcountTableClusters * clusterSize) / 8;
    const tracker = new WriteTracker(createWriteTrackerState(), file, options.log);
    this.tables = new Tables(
      file,
      new TableCache(createTableCacheState(CACHE_BYTES, Math.min(4096, clusterSize))),
      tracker,
    );
    this.refcounts = new Refcounts(file.path, this.geometry, this.tables, numbers);
  }

  run(): CheckReport {
    const { header, report, geometry } = this;
    report.totalClusters = Math.ceil(header.size / geometry.clusterSize);
    this.use(0, geometry.clusterSize, 'the header');
    this.walkRefcountTable();
    this.walkL1(header.l1TableOffset, header.l1Size, true);
    if (header.snapshotCount > 0) this.walkSnapshots();
    for (const range of bitmapRanges(this.file, header)) this.use(range.offset, range.length, 'a bitmap');
    if (header.cryptoHeader !== null)
      this.use(header.cryptoHeader.offset, header.cryptoHeader.length, 'the encryption header');
    this.compare();
    return report;
  }

  private walkRefcountTable(): void {
    const { header, geometry } = this;
    this.use(header.refcountTableOffset, header.refcountTableClusters * geometry.clusterSize, 'the refcount table');
    const table = this.readTable(header.refcountTableOffset, header.refcountTableClusters * geometry.clusterSize);
    for (let at = 0; at < table.byteLength; at += 8) {
      const block = combine(table.getUint32(at), table.getUint32(at + 4));
      if (block === 0 || !this.useTable(block, `refcount table entry ${at / 8}`)) continue;
      // a block shown twice counts two ranges with one set of counters; its own counter shows that, and it is walked once
      if (this.references.get(geometry.clusterOf(block)) === 1) this.blocks.push(at / 8);
    }
  }

  private walkSnapshots(): void {
    const { snapshots, length } = readSnapshotTable(this.file, this.header);
    this.use(this.header.snapshotsOffset, length, 'the snapshot table');
    for (const { l1TableOffset, l1Size } of snapshots) this.walkL1(l1TableOffset, l1Size, false);
  }

  private walkL1(offset: number, entries: number, isActive: boolean): void {
    if (entries === 0) return;
    this.use(offset, entries * 8, 'an L1 table');
    const l1 = this.readTable(offset, entries * 8);
    const seen = new SparseBitmap();
    for (let index = 0; index < entries; index++) {
      const high = l1.getUint32(index * 8);
      const table = offsetOf(high, l1.getUint32(index * 8 + 4));
      if (isActive) this.options.progress?.((index + 1) / entries);
      if (table === 0) continue;
      if (!this.useTable(table, `L1 entry ${index} at offset ${hex(offset + index * 8)}`)) continue;
      if (isActive) this.flagged.push({ at: offset + index * 8, host: table, copied: isCopied(high) });
      // a table that maps two ranges of one layer is wrong; walking it again for each would take a hostile image for ever
      if (seen.add(this.geometry.clusterOf(table))) this.walkL2(table, isActive);
      else
        this.corruption(
          `L1 entry ${index} at offset ${hex(offset + index * 8)} refers to an L2 table that maps another range, too`,
        );
    }
  }

  private walkL2(table: number, isActive: boolean): void {
    const { geometry, header, report } = this;
    const l2 = this.readTable(table, geometry.clusterSize);
    for (let at = 0; at < geometry.clusterSize; at += geometry.l2EntryBytes) {
      const high = l2.getUint32(at);
      const low = l2.getUint32(at + 4);
      const fault = header.extendedL2 && !isCompressed(high) ? this.bitmapFault(l2, at) : null;
      if (fault !== null) this.corruption(`the L2 entry at offset ${hex(table + at)} is damaged: ${fault}`);
      if (high === 0 && low === 0) continue;
      if (isCompressed(high)) {
        this.useCompressed(high, low, table + at);
        if (!isActive) continue;
        report.allocatedClusters++;
        report.compressedClusters++;
        report.fragmentedClusters++;
        continue;
      }
      const host = offsetOf(high, low);
      if (host === 0) continue;
      if (header.hasExternalData) {
        if (isActive) report.allocatedClusters++;
        continue;
      }
      if (!this.useTable(host, `the L2 entry at offset ${hex(table + at)}`) || !isActive) continue;
      this.flagged.push({ at: table + at, host, copied: isCopied(high) });
      if (header.version === 3 && !header.extendedL2 && (low & QCOW_OFLAG_ZERO) !== 0) continue;
      report.allocatedClusters++;
      if (this.previousData !== 0 && host !== this.previousData + geometry.clusterSize) report.fragmentedClusters++;
      this.previousData = host;
    }
  }

  private bitmapFault(l2: DataView, at: number): string | null {
    const bitmap = { zero: l2.getUint32(at + 8), allocated: l2.getUint32(at + 12) };
    const high = l2.getUint32(at);
    const hasHost = this.header.hasExternalData ? isCopied(high) : offsetOf(high, l2.getUint32(at + 4)) !== 0;
    return subclusterFault(bitmap, hasHost);
  }

  private useCompressed(high: number, low: number, at: number): void {
    const context = { path: this.file.path, offset: at };
    try {
      const { hostOffset: start, length } = parseCompressedDescriptor(high, low, this.header.clusterBits, context);
      this.use(start, length, `the compressed cluster of the L2 entry at offset ${hex(at)}`);
    } catch (error) {
      this.corruption((error as Error).message);
    }
  }

  /** One reference to a whole, aligned cluster. @returns whether it is one */
  private useTable(offset: number, what: string): boolean {
    if (offset > 0 && offset % this.geometry.clusterSize === 0 && offset + this.geometry.clusterSize <= this.fileEnd) {
      return this.use(offset, this.geometry.clusterSize, what);
    }
    this.corruption(
      `${what} refers to ${Number.isNaN(offset) ? 'an impossible offset' : hex(offset)}, which is no cluster of this file`,
    );
    return false;
  }

  private use(offset: number, length: number, what: string): boolean {
    const { clusterSize } = this.geometry;
    // the padding of compressed data may be missing at the end of the file
    if (!(offset >= 0 && offset + length <= this.fileEnd + clusterSize)) {
      this.corruption(`${what} at ${hex(offset)} with ${length} bytes lies beyond the file`);
      return false;
    }
    for (let cluster = this.geometry.clusterOf(offset); cluster * clusterSize < offset + length; cluster++) {
      this.references.add(cluster);
    }
    this.report.imageEndOffset = Math.max(this.report.imageEndOffset, roundUp(offset + length, clusterSize));
    return true;
  }

  /** Only where there are counters or references: a sparse file of any length costs what is in it. */
  private compare(): void {
    const { geometry, options } = this;
    const low: Miscounted[] = [];
    const leaks: Miscounted[] = [];
    const { refcountsPerBlock } = geometry;
    for (const block of this.blocks)
      this.compareRange(block * refcountsPerBlock, (block + 1) * refcountsPerBlock, true, low, leaks);
    for (const { start, end } of this.references.ranges()) this.compareRange(start, end, false, low, leaks);
    if (options.repair === 'all') this.raise(low);
    this.compareFlags();
    if (options.repair !== 'none') this.lower(leaks);
  }

  /** @param counted whether to look at clusters with a refcount block, or at those without one */
  private compareRange(start: number, end: number, counted: boolean, low: Miscounted[], leaks: Miscounted[]): void {
    const { clusterSize } = this.geometry;
    for (let cluster = start; cluster < end; cluster++) {
      const references = this.references.get(cluster);
      if (!counted && (references === 0 || this.refcounts.blockOf(cluster) !== 0)) continue;
      const counter = counted ? this.refcounts.get(cluster) : 0;
      if (counter === references) continue;
      const at = `cluster ${cluster} at ${hex(cluster * clusterSize)} has refcount ${counter} and ${references} references`;
      if (counter < references) {
        this.corruption(at);
        low.push({ cluster, references });
      } else {
        this.report.leaks++;
        this.log(`Leaked: ${at}`);
        leaks.push({ cluster, references });
      }
    }
  }

  private raise(low: readonly Miscounted[]): void {
    for (const { cluster, references } of low) {
      if (this.refcounts.blockOf(cluster) === 0 || references > this.refcounts.max) {
        this.log(
          `The counter of cluster ${cluster} cannot be raised here; qemu-img check -r all rebuilds the refcount structures`,
        );
        continue;
      }
      this.refcounts.setRun(cluster, 1, references);
      this.report.corruptionsFixed++;
    }
    if (low.length > 0) this.file.sync();
  }

  /** COPIED says that the counter is exactly 1: a wrong one makes a write hit a snapshot, or copies for nothing. */
  private compareFlags(): void {
    for (const { at, host, copied } of this.flagged) {
      const isSingle = this.refcounts.get(this.geometry.clusterOf(host)) === 1;
      if (isSingle === copied) continue;
      this.corruption(
        `the entry at offset ${hex(at)} has COPIED ${copied ? 'set' : 'clear'}, but its cluster is ${isSingle ? 'not ' : ''}shared`,
      );
      if (this.options.repair !== 'all') continue;
      const { high, low } = this.tables.load(at, 0);
      const flags = { high: isSingle ? (high | QCOW_OFLAG_COPIED) >>> 0 : (high & ~QCOW_OFLAG_COPIED) >>> 0, low };
      this.tables.store('l2-update', at, 0, 1, flags, 0, 0);
      this.report.corruptionsFixed++;
    }
  }

  private lower(leaks: readonly Miscounted[]): void {
    if (leaks.length === 0) return;
    this.file.sync();
    for (const { cluster, references } of leaks) {
      this.refcounts.setRun(cluster, 1, references);
      this.report.leaksFixed++;
    }
    this.file.sync();
  }

  private readTable(offset: number, length: number): DataView {
    const bytes = new Uint8Array(length);
    if (offset + length <= this.fileEnd) this.file.read(bytes, 0, length, hostOffset(offset));
    return new DataView(bytes.buffer);
  }

  private corruption(sentence: string): void {
    this.report.corruptions++;
    this.log(`ERROR ${sentence}`);
  }

  private log(sentence: string): void {
    this.logged++;
    if (this.logged <= MAX_LOGGED) this.options.log(sentence);
    else if (this.logged === MAX_LOGGED + 1) this.options.log('Further findings are counted and not printed');
  }
}
