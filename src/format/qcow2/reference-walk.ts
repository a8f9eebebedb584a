// The walk that finds every reference of an image: header, refcount structures, L1 and L2 tables of the active layer and of all
// snapshots, snapshot table, bitmaps, encryption header. It counts them and says what cannot be true; it changes nothing.
// A table is read once however many entries refer to it, so no image can make the walk longer than its file.

import { combine } from '../../bytes/endian.ts';
import { hex, hostOffset, roundUp } from '../../bytes/offsets.ts';
import { describeError } from '../../errors/index.ts';
import { type HostFile, readPadded } from '../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../check-report.ts';
import { bitmapRanges } from './bitmap-directory.ts';
import { parseCompressedDescriptor } from './compressed.ts';
import { CounterBlocks } from './counter-blocks.ts';
import { Geometry } from './geometry.ts';
import { QCOW_MAX_REFTABLE_SIZE, type Qcow2Header } from './header.ts';
import type { MetadataKind } from './metadata-clusters.ts';
import { ReferenceCounts } from './reference-counts.ts';
import { checkSnapshotL1, readSnapshotTable } from './snapshot-table.ts';
import { subclusterFault } from './subcluster.ts';
import { hasReservedBits, isCompressed, isCopied, offsetOf, QCOW_OFLAG_ZERO } from './table.ts';

/** Findings of one kind that are kept as sentences. */
const MAX_FLAG_SENTENCES = 1000;
/** Bits of an L1 entry that must be 0, beside those of every entry: 62 in the high word, 0 in the low word. */
const L1_RESERVED_HIGH = 0x40000000;
const L1_RESERVED_LOW = 1;

export interface WalkOptions {
  /** one sentence per finding, corruptions with "ERROR " before them */
  readonly log: (sentence: string) => void;
  /** fraction of the work done, 0 to 1 */
  readonly progress?: ((fraction: number) => void) | undefined;
  /** told where metadata is */
  readonly mark?: ((kind: MetadataKind, firstCluster: number, count: number) => void) | undefined;
}

/** Clusters [start, start + count). */
interface ClusterSpan {
  readonly start: number;
  readonly count: number;
}

/** An L2 table: by how many entries of how many layers it is used. */
interface TableUse {
  references: number;
  isActive: boolean;
  /** first byte of the disk that the table maps */
  guest: number;
}

export class ReferenceWalk {
  readonly geometry: Geometry;
  readonly report: CheckReport = emptyCheckReport('qcow2');
  readonly counts = new ReferenceCounts();
  readonly counters: CounterBlocks;
  /** first byte behind the last cluster of the file, which need not be whole */
  readonly fileEnd: number;
  private readonly fileSize: number;
  unrepairableCount = 0;
  /** findings that say that the refcount table or its blocks cannot be used as they are */
  structureFaults = 0;
  /** entries and tables that could not be followed: some cluster may be in use that no count shows */
  unfollowed = 0;
  /** the lowest offset behind the end of the file that something refers to */
  lowestBeyond = Number.POSITIVE_INFINITY;
  /** COPIED flags that are not what the counters say */
  flagFaults = 0;
  /** of those, flags that are clear where nothing is shared: they cost a copy and harm nothing */
  harmlessFlags = 0;
  readonly flagSentences: string[] = [];
  /** nothing else refers to the clusters of the active L1 table */
  isL1Alone = true;
  /** offsets of zero entries that keep an impossible place */
  readonly badZeroes: number[] = [];
  /** of the counts, the references of refcount table and header to refcount structures: what a rebuild takes away */
  readonly refcountUses = new ReferenceCounts();
  private readonly refcountSpans: ClusterSpan[] = [];
  private readonly file: HostFile;
  private readonly header: Qcow2Header;
  private readonly options: WalkOptions;
  private readonly tables = new Map<number, TableUse>();
  /** where the data of the next cluster lies in a file that is not fragmented; 0 before the first */
  private nextData = 0;

  constructor(file: HostFile, header: Qcow2Header, options: WalkOptions) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.geometry = new Geometry(header.clusterBits, header.refcountOrder, header.extendedL2);
    this.counters = new CounterBlocks(file, this.geometry);
    this.fileSize = file.size();
    this.fileEnd = roundUp(this.fileSize, this.geometry.clusterSize);
  }

  run(): this {
    const { header, report, geometry } = this;
    report.totalClusters = Math.ceil(header.size / geometry.clusterSize);
    this.use(0, geometry.clusterSize, 'the header', 'header');
    this.walkRefcountTable();
    this.walkL1(header.l1TableOffset, header.l1Size, true);
    if (header.snapshotCount > 0) this.walkSnapshots();
    this.walkL2Tables();
    this.walkBitmaps();
    if (header.cryptoHeader !== null) {
      this.use(header.cryptoHeader.offset, header.cryptoHeader.length, 'the encryption header', 'encryption header');
    }
    this.checkExclusive();
    return this;
  }

  /** A corruption that a repair removes. */
  repairable(sentence: string): void {
    this.report.corruptions++;
    this.options.log(`ERROR ${sentence}`);
  }

  /** A corruption that no repair removes, because nothing safe can be put in its place. */
  unrepairable(sentence: string): void {
    this.unrepairableCount++;
    this.repairable(sentence);
  }

  private structureFault(sentence: string): void {
    this.structureFaults++;
    this.repairable(sentence);
  }

  private walkRefcountTable(): void {
    const { geometry, header, fileEnd } = this;
    const { clusterSize } = geometry;
    const offset = header.refcountTableOffset;
    const length = header.refcountTableClusters * clusterSize;
    const placed = offset > 0 && offset % clusterSize === 0 && offset + length <= fileEnd;
    if (length === 0 || length > QCOW_MAX_REFTABLE_SIZE || !placed) {
      const shown = Number.isNaN(offset) ? 'an impossible offset' : hex(offset);
      this.structureFault(`the refcount table of ${length} bytes at ${shown} is no table in this file`);
      return;
    }
    this.useRefcounts(offset, length, 'the refcount table', 'refcount table');
    const table = this.readTable(offset, length);
    for (let at = 0; at < length; at += 8) {
      const high = table.getUint32(at);
      const low = table.getUint32(at + 4);
      if (high === 0 && low === 0) continue;
      const block = combine(high, low);
      const what = `refcount table entry ${at / 8} at offset ${hex(offset + at)}`;
      if (!(block % clusterSize === 0 && block + clusterSize <= fileEnd)) {
        this.structureFault(`${what} refers to ${showOffset(block)}, which is no cluster of this file`);
        continue;
      }
      const seen = this.counts.get(block / clusterSize);
      this.useRefcounts(block, clusterSize, what, 'refcount block');
      // a block shown twice counts two ranges with one set of counters: checkExclusive names it, and it is read once
      if (seen === 0) this.counters.add(at / 8, block);
    }
  }

  private useRefcounts(offset: number, length: number, what: string, kind: MetadataKind): void {
    const { clusterSize } = this.geometry;
    this.use(offset, length, what, kind);
    const span = { start: offset / clusterSize, count: length / clusterSize };
    this.refcountSpans.push(span);
    for (let cluster = span.start; cluster < span.start + span.count; cluster++) this.refcountUses.add(cluster);
  }

  private walkSnapshots(): void {
    const { clusterSize, snapshotsOffset } = this.header;
    try {
      const { snapshots, length } = readSnapshotTable(this.file, this.header);
      this.use(snapshotsOffset, length, 'the snapshot table', 'snapshot table');
      for (const snapshot of snapshots) {
        try {
          checkSnapshotL1(this.file, clusterSize, snapshot);
        } catch (error) {
          this.cannotFollow(describeError(error));
          continue;
        }
        this.walkL1(snapshot.l1TableOffset, snapshot.l1Size, false);
      }
    } catch (error) {
      this.cannotFollow(describeError(error));
    }
  }

  private walkBitmaps(): void {
    try {
      for (const range of bitmapRanges(this.file, this.header))
        this.use(range.offset, range.length, 'a bitmap', 'bitmap');
    } catch (error) {
      this.cannotFollow(describeError(error));
    }
  }

  private walkL1(offset: number, entries: number, isActive: boolean): void {
    if (entries === 0) return;
    const kind = isActive ? 'active L1 table' : 'inactive L1 table';
    this.use(offset, entries * 8, `an L1 table`, kind);
    const l1 = this.readTable(offset, entries * 8);
    for (let index = 0; index < entries; index++) {
      const high = l1.getUint32(index * 8);
      const low = l1.getUint32(index * 8 + 4);
      if (high === 0 && low === 0) continue;
      const at = offset + index * 8;
      const what = `L1 entry ${index} at offset ${hex(at)}`;
      if (hasReservedBits(high, low) || (high & L1_RESERVED_HIGH) !== 0 || (low & L1_RESERVED_LOW) !== 0)
        this.unrepairable(`${what} has reserved bits set`);
      const table = offsetOf(high, low);
      if (table === 0) continue;
      if (!this.useCluster(table, what, isActive ? 'active L2 table' : 'inactive L2 table')) {
        this.unfollowed++;
        continue;
      }
      if (isActive) this.compareFlag(at, table, isCopied(high));
      const known = this.tables.get(table);
      if (known === undefined)
        this.tables.set(table, { references: 1, isActive, guest: index * this.geometry.l2Coverage });
      else known.references++;
    }
  }

  private walkL2Tables(): void {
    const { clusterSize } = this.geometry;
    const bytes = new Uint8Array(clusterSize);
    const view = new DataView(bytes.buffer);
    let done = 0;
    for (const [table, use] of this.tables) {
      readPadded(this.file, bytes, 0, clusterSize, hostOffset(table));
      this.walkL2(view, table, use);
      this.options.progress?.(++done / this.tables.size);
    }
  }

  /** As many L1 entries as refer to the table refer to what it refers to. */
  private walkL2(l2: DataView, table: number, { references, isActive, guest }: TableUse): void {
    const { geometry, header, report } = this;
    for (let at = 0; at < geometry.clusterSize; at += geometry.l2EntryBytes) {
      const high = l2.getUint32(at);
      const low = l2.getUint32(at + 4);
      const fault = header.extendedL2 && !isCompressed(high) ? this.bitmapFault(l2, at) : null;
      if (fault !== null) this.unrepairable(`the L2 entry at offset ${hex(table + at)} is damaged: ${fault}`);
      if (high === 0 && low === 0) continue;
      if (isCompressed(high) && header.hasExternalData) {
        this.unrepairable(`the L2 entry at offset ${hex(table + at)} is compressed, which data files do not have`);
        continue;
      }
      if (isCompressed(high)) {
        this.useCompressed(high, low, table + at, references);
        if (!isActive) continue;
        if (isCopied(high))
          this.flagFault(`the compressed cluster of the entry at offset ${hex(table + at)} has COPIED set`);
        report.allocatedClusters++;
        report.compressedClusters++;
        report.fragmentedClusters++;
        continue;
      }
      const isZero = header.version === 3 && !header.extendedL2 && (low & QCOW_OFLAG_ZERO) !== 0;
      const host = offsetOf(high, low);
      if (isZero && host !== 0 && !header.hasExternalData && !this.isCluster(host)) {
        this.badZero(table + at, host);
        continue;
      }
      if (this.hasReserved(high, low))
        this.unrepairable(`the L2 entry at offset ${hex(table + at)} has reserved bits set`);
      if (header.hasExternalData) {
        const place = guest + (at / geometry.l2EntryBytes) * geometry.clusterSize;
        if (isActive && (host !== 0 || isCopied(high)))
          this.lookAtPlace(table + at, host, place, isCopied(high), isZero);
        continue;
      }
      if (host === 0) continue;
      if (!this.useCluster(host, `the L2 entry at offset ${hex(table + at)}`, null, references)) {
        this.unfollowed++;
        continue;
      }
      if (!isActive) continue;
      this.compareFlag(table + at, host, isCopied(high));
      if (!isZero) this.countData(host);
    }
  }

  private badZero(at: number, host: number): void {
    this.repairable(`the zero entry at offset ${hex(at)} keeps ${showOffset(host)}, which is no cluster of this file`);
    this.badZeroes.push(at);
  }

  private countData(host: number): void {
    this.report.allocatedClusters++;
    if (this.nextData !== 0 && host !== this.nextData) this.report.fragmentedClusters++;
    this.nextData = host + this.geometry.clusterSize;
  }

  /** A data file has one place for each guest cluster, which nobody shares. @param at of the L2 entry */
  private lookAtPlace(at: number, host: number, place: number, copied: boolean, isZero: boolean): void {
    if (host !== place && !isZero) {
      const where = `${showOffset(host)} of the data file instead of ${hex(place)}`;
      this.unrepairable(`the L2 entry at offset ${hex(at)} refers to ${where}`);
      return;
    }
    if (!copied && !isZero) this.flagFault(flagSentence(at, false));
    if (!isZero) this.countData(host);
  }

  /** Neither version 2 nor extended entries have the zero flag, and QEMU answers EIO for it there. */
  private hasReserved(high: number, low: number): boolean {
    const { extendedL2, version } = this.header;
    return hasReservedBits(high, low) || ((extendedL2 || version === 2) && (low & QCOW_OFLAG_ZERO) !== 0);
  }

  private bitmapFault(l2: DataView, at: number): string | null {
    const bitmap = { zero: l2.getUint32(at + 8), allocated: l2.getUint32(at + 12) };
    const high = l2.getUint32(at);
    const hasHost = this.header.hasExternalData ? isCopied(high) : offsetOf(high, l2.getUint32(at + 4)) !== 0;
    return subclusterFault(bitmap, hasHost);
  }

  private useCompressed(high: number, low: number, at: number, references: number): void {
    const context = { path: this.file.path, offset: at };
    try {
      const { hostOffset: start, length } = parseCompressedDescriptor(high, low, this.header.clusterBits, context);
      const what = `the compressed cluster of the L2 entry at offset ${hex(at)}`;
      if (!this.use(start, length, what, null, references)) this.unfollowed++;
    } catch (error) {
      this.cannotFollow((error as Error).message);
    }
  }

  /** Nothing but L1 entries refers to an L2 table, so that changing an entry of it changes nothing else. */
  isOnlyTable(table: number): boolean {
    return this.referencesToKeep(this.geometry.clusterOf(table)) === (this.tables.get(table)?.references ?? 0);
  }

  /** No L2 table is something else as well. */
  get areTablesAlone(): boolean {
    for (const table of this.tables.keys()) if (!this.isOnlyTable(table)) return false;
    return true;
  }

  /** A whole, aligned cluster of the file, and not the header's. */
  isCluster(offset: number): boolean {
    const { clusterSize } = this.geometry;
    return offset > 0 && offset % clusterSize === 0 && offset + clusterSize <= this.fileEnd;
  }

  /** References to a whole, aligned cluster. @returns whether it is one */
  private useCluster(offset: number, what: string, kind: MetadataKind | null, references = 1): boolean {
    const { clusterSize } = this.geometry;
    if (this.isCluster(offset)) return this.use(offset, clusterSize, what, kind, references);
    this.unrepairable(`${what} refers to ${showOffset(offset)}, which is no cluster of this file`);
    if (offset >= this.fileEnd) this.lowestBeyond = Math.min(this.lowestBeyond, offset);
    return false;
  }

  private use(offset: number, length: number, what: string, kind: MetadataKind | null, references = 1): boolean {
    const { clusterSize } = this.geometry;
    // the padding of compressed data may be missing at the end of the file
    if (!(offset >= 0 && offset + length < this.fileSize + clusterSize)) {
      this.unrepairable(`${what} at ${hex(offset)} with ${length} bytes lies beyond the file`);
      this.lowestBeyond = Math.min(this.lowestBeyond, Math.max(offset, this.fileEnd));
      return false;
    }
    const first = this.geometry.clusterOf(offset);
    const end = Math.ceil((offset + length) / clusterSize);
    for (let cluster = first; cluster < end; cluster++) this.counts.add(cluster, references);
    if (kind !== null) this.options.mark?.(kind, first, end - first);
    this.report.imageEndOffset = Math.max(this.report.imageEndOffset, roundUp(offset + length, clusterSize));
    return true;
  }

  /** COPIED says that the counter is exactly 1: a wrong one makes a write hit a snapshot, or copies for nothing. */
  private compareFlag(at: number, host: number, copied: boolean): void {
    const isSingle = this.counters.get(this.geometry.clusterOf(host)) === 1;
    if (isSingle === copied) return;
    if (!copied) this.harmlessFlags++;
    this.flagFault(flagSentence(at, copied));
  }

  private flagFault(sentence: string): void {
    this.flagFaults++;
    if (this.flagSentences.length < MAX_FLAG_SENTENCES) this.flagSentences.push(sentence);
  }

  private cannotFollow(sentence: string): void {
    this.unfollowed++;
    this.unrepairable(sentence);
  }

  /** What is written in place whoever else refers to it: the header, the active L1 table and the refcount structures. */
  private checkExclusive(): void {
    const { header, geometry } = this;
    const { clusterSize } = geometry;
    const l1 = { start: header.l1TableOffset / clusterSize, count: Math.ceil((header.l1Size * 8) / clusterSize) };
    const isShared = ({ start, count }: ClusterSpan, references: (cluster: number) => number): boolean => {
      for (let cluster = start; cluster < start + count; cluster++) if (references(cluster) !== 1) return true;
      return false;
    };
    const rest = (cluster: number): number => this.referencesToKeep(cluster);
    if (isShared({ start: 0, count: 1 }, rest)) this.unrepairable('something refers to the cluster of the header');
    this.isL1Alone = header.l1Size === 0 || !isShared(l1, rest);
    if (!this.isL1Alone) this.unrepairable('something else refers to the clusters of the active L1 table');
    const inBadTables = new Set(this.badZeroes.map((at) => at - (at % clusterSize)));
    for (const table of inBadTables) {
      // copied before it is changed, once the counters are true; until then it is data as well, and stays as it is
      if (!this.isOnlyTable(table))
        this.unrepairable(`something else refers to the L2 table at ${hex(table)}, which has impossible entries`);
    }
    for (const span of this.refcountSpans) {
      if (isShared(span, (cluster) => this.counts.get(cluster)))
        this.structureFault(`something else refers to the refcount structures at ${hex(span.start * clusterSize)}`);
    }
  }

  /** References to a cluster that are left when the refcount structures are made anew. */
  referencesToKeep(cluster: number): number {
    return this.counts.get(cluster) - this.refcountUses.get(cluster);
  }

  private readTable(offset: number, length: number): DataView {
    const bytes = new Uint8Array(length);
    readPadded(this.file, bytes, 0, length, hostOffset(offset));
    return new DataView(bytes.buffer);
  }
}

export function flagSentence(at: number, copied: boolean): string {
  return `the entry at offset ${hex(at)} has COPIED ${copied ? 'set' : 'clear'}, but its cluster is ${copied ? '' : 'not '}shared`;
}

function showOffset(offset: number): string {
  return Number.isNaN(offset) ? 'an impossible offset' : hex(offset);
}
