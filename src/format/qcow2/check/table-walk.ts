// The walk of the L1 and L2 tables of the active layer and of all snapshots: counts the references of their entries and
// reports impossible entries. An L2 table is read at most once, whatever the number of L1 entries, and never if it is a hole.

import { hex, hostOffset } from '../../../bytes/offsets.ts';
import { isCorrupt } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import { parseCompressedDescriptor } from '../compressed.ts';
import type { Geometry } from '../geometry.ts';
import type { Qcow2Header } from '../header/header.ts';
import { subclusterFault } from '../subcluster.ts';
import { hasReservedBits, isCompressed, isCopied, offsetOf, QCOW_OFLAG_ZERO, readTable } from '../table.ts';
import type { ClusterUses } from './cluster-uses.ts';
import { type Findings, flagSentence, showOffset } from './findings.ts';
import type { OnDiskRefcounts } from './on-disk-refcounts.ts';
import type { Holes } from './table-holes.ts';
import { TableUses } from './table-uses.ts';

/** Bits that must be 0 in an L1 entry, in addition to those of every entry: bits 62 and 0. */
const L1_RESERVED_HIGH = 0x40000000;
const L1_RESERVED_LOW = 1;

/** How an L2 table is used. */
interface TableUse {
  /** L1 entries that refer to it, snapshots included */
  readonly references: number;
  /** whether the active layer uses it */
  readonly isActive: boolean;
  /** guest offset of the first byte that the table maps */
  readonly guest: number;
}

interface TableWalkParts {
  readonly file: HostFile;
  readonly header: Qcow2Header;
  readonly geometry: Geometry;
  readonly uses: ClusterUses;
  readonly findings: Findings;
  /** a COPIED flag must agree with these */
  readonly counters: OnDiskRefcounts;
  readonly holes: Holes;
}

export class TableWalk {
  /** host offsets of zero entries whose preallocated cluster is impossible */
  readonly badZeroEntries: number[] = [];
  private readonly parts: TableWalkParts;
  private readonly tables = new TableUses();
  /** number of tables of the active layer: the first places, because its L1 table is walked first */
  private activeTables = 0;
  /** host offset that the next data cluster has if the file is not fragmented; 0 before the first */
  private nextData = 0;

  constructor(parts: TableWalkParts) {
    this.parts = parts;
  }

  /** Walks one L1 table. Call it for the active one first. @param references number of snapshots with this L1 table */
  walkL1(offset: number, entries: number, isActive: boolean, references = 1): void {
    if (entries === 0) return;
    const { file, findings, geometry, uses } = this.parts;
    const size = file.size();
    const end = offset + entries * 8;
    if (isActive && end > size)
      findings.cannotFollow(`the file of ${size} bytes ends before its L1 table does, at ${end}: it is truncated`);
    // the missing entries may have referred to any cluster
    if (!uses.add(offset, entries * 8, 'an L1 table', isActive ? 'active L1 table' : 'inactive L1 table', references))
      findings.unfollowed++;
    const l1 = readTable(file, offset, entries * 8);
    for (let index = 0; index < entries; index++) {
      const high = l1.getUint32(index * 8);
      const low = l1.getUint32(index * 8 + 4);
      if (high === 0 && low === 0) continue;
      const at = offset + index * 8;
      const what = `L1 entry ${index} at offset ${hex(at)}`;
      if (hasReservedBits(high, low) || (high & L1_RESERVED_HIGH) !== 0 || (low & L1_RESERVED_LOW) !== 0)
        findings.unrepairable(`${what} has reserved bits set`);
      const table = offsetOf(high, low);
      if (table === 0) continue;
      if (!uses.addCluster(table, what, isActive ? 'active L2 table' : 'inactive L2 table', references)) {
        findings.unfollowed++;
        continue;
      }
      if (isActive) this.compareFlag(at, table, isCopied(high));
      this.tables.add(table, references, index * geometry.l2Coverage);
    }
    if (isActive) this.activeTables = this.tables.size;
  }

  /** Walks all L2 tables that the L1 tables refer to. @param progress called with the fraction done, 0 to 1 */
  walkL2Tables(progress?: (fraction: number) => void): void {
    const { file, geometry, holes } = this.parts;
    const { clusterSize } = geometry;
    const { tables } = this;
    const bytes = new Uint8Array(clusterSize);
    const view = new DataView(bytes.buffer);
    for (let place = 0; place < tables.size; place++) {
      const table = tables.tableAt(place);
      if (holes.isHole(table, clusterSize)) continue;
      readPadded(file, bytes, 0, clusterSize, hostOffset(table));
      const isActive = place < this.activeTables;
      this.walkL2(view, table, { references: tables.referencesAt(place), isActive, guest: tables.guestAt(place) });
      progress?.((place + 1) / tables.size);
    }
  }

  private walkL2(l2: DataView, table: number, use: TableUse): void {
    const { findings, geometry, header } = this.parts;
    const { clusterSize, l2EntryBytes } = geometry;
    for (let at = 0; at < clusterSize; at += l2EntryBytes) {
      const high = l2.getUint32(at);
      const low = l2.getUint32(at + 4);
      const fault = header.extendedL2 && !isCompressed(high) ? this.bitmapFault(l2, at) : null;
      if (fault !== null) findings.unrepairable(`the L2 entry at offset ${hex(table + at)} is damaged: ${fault}`);
      if (high === 0 && low === 0) continue;
      if (isCompressed(high)) this.walkCompressed(high, low, table + at, use);
      else this.walkEntry(high, low, table + at, use.guest + (at / l2EntryBytes) * clusterSize, use);
    }
  }

  /** Each L1 entry that refers to the table adds one reference. @param guest offset of the first byte that the entry maps */
  private walkEntry(high: number, low: number, at: number, guest: number, { references, isActive }: TableUse): void {
    const { findings, header, uses } = this.parts;
    const isZero = header.version === 3 && !header.extendedL2 && (low & QCOW_OFLAG_ZERO) !== 0;
    const host = offsetOf(high, low);
    if (isZero && host !== 0 && !header.hasExternalData && !uses.isCluster(host)) {
      this.reportBadZero(at, host);
      return;
    }
    if (this.hasReserved(high, low)) findings.unrepairable(`the L2 entry at offset ${hex(at)} has reserved bits set`);
    if (header.hasExternalData) {
      if (isActive && (host !== 0 || isCopied(high))) this.checkDataFileEntry(at, host, guest, isCopied(high), isZero);
      return;
    }
    if (host === 0) return;
    if (!uses.addCluster(host, `the L2 entry at offset ${hex(at)}`, null, references)) {
      findings.unfollowed++;
      return;
    }
    if (!isActive) return;
    this.compareFlag(at, host, isCopied(high));
    if (!isZero) this.countData(host);
  }

  private walkCompressed(high: number, low: number, at: number, { references, isActive }: TableUse): void {
    const { findings, header } = this.parts;
    if (header.hasExternalData) {
      findings.unrepairable(
        `the L2 entry at offset ${hex(at)} is compressed, which an image with a data file does not allow`,
      );
      return;
    }
    this.useCompressed(high, low, at, references);
    if (!isActive) return;
    if (isCopied(high)) findings.flagFault(`the compressed cluster of the entry at offset ${hex(at)} has COPIED set`);
    findings.report.allocatedClusters++;
    findings.report.compressedClusters++;
    findings.report.fragmentedClusters++;
  }

  private useCompressed(high: number, low: number, at: number, references: number): void {
    const { file, findings, header, uses } = this.parts;
    const context = { path: file.path, offset: at };
    try {
      const { hostOffset: start, length } = parseCompressedDescriptor(high, low, header.clusterBits, context);
      const what = `the compressed cluster of the L2 entry at offset ${hex(at)}`;
      if (!uses.add(start, length, what, null, references)) findings.unfollowed++;
    } catch (error) {
      if (!isCorrupt(error)) throw error;
      findings.cannotFollow((error as Error).message);
    }
  }

  private reportBadZero(at: number, host: number): void {
    const where = `${showOffset(host)}, which is not a cluster of this file`;
    this.parts.findings.repairable(`the zero entry at offset ${hex(at)} keeps ${where}`);
    this.badZeroEntries.push(at);
  }

  private countData(host: number): void {
    const { findings, geometry } = this.parts;
    findings.report.allocatedClusters++;
    if (this.nextData !== 0 && host !== this.nextData) findings.report.fragmentedClusters++;
    this.nextData = host + geometry.clusterSize;
  }

  /** In a data file each guest cluster lies at its guest offset and is never shared. @param at host offset of the L2 entry */
  private checkDataFileEntry(at: number, host: number, guest: number, copied: boolean, isZero: boolean): void {
    const { findings } = this.parts;
    if (host !== guest && !isZero) {
      const where = `${showOffset(host)} of the data file instead of ${hex(guest)}`;
      findings.unrepairable(`the L2 entry at offset ${hex(at)} refers to ${where}`);
      return;
    }
    if (!copied && !isZero) findings.flagFault(flagSentence(at, false));
    if (!isZero) this.countData(host);
  }

  /** Version 2 and extended entries have no zero flag: QEMU answers EIO if that bit is set. */
  private hasReserved(high: number, low: number): boolean {
    const { extendedL2, version } = this.parts.header;
    return hasReservedBits(high, low) || ((extendedL2 || version === 2) && (low & QCOW_OFLAG_ZERO) !== 0);
  }

  private bitmapFault(l2: DataView, at: number): string | null {
    const bitmap = { zero: l2.getUint32(at + 8), allocated: l2.getUint32(at + 12) };
    const high = l2.getUint32(at);
    const hasHost = this.parts.header.hasExternalData ? isCopied(high) : offsetOf(high, l2.getUint32(at + 4)) !== 0;
    return subclusterFault(bitmap, hasHost);
  }

  /** COPIED means that the counter is exactly 1. Wrongly set, a write changes a snapshot; wrongly clear, it copies in vain. */
  private compareFlag(at: number, host: number, copied: boolean): void {
    const { counters, findings, geometry } = this.parts;
    const isSingle = counters.get(geometry.clusterOf(host)) === 1;
    if (isSingle === copied) return;
    if (!copied) findings.harmlessFlags++;
    findings.flagFault(flagSentence(at, copied));
  }

  /** Number of L2 tables. */
  get tableCount(): number {
    return this.tables.size;
  }

  /** Index of the table at this host offset, or -1. */
  placeOf(table: number): number {
    return this.tables.find(table);
  }

  /** Whether only L1 entries refer to the table, so that a change to one of its entries changes nothing else. */
  isOnlyTable(table: number): boolean {
    const { geometry, uses } = this.parts;
    const place = this.tables.find(table);
    const references = place < 0 ? 0 : this.tables.referencesAt(place);
    return uses.referencesToKeep(geometry.clusterOf(table)) === references;
  }

  /** Whether this holds for all L2 tables. */
  get areTablesAlone(): boolean {
    for (let place = 0; place < this.tables.size; place++) {
      if (!this.isOnlyTable(this.tables.tableAt(place))) return false;
    }
    return true;
  }
}
