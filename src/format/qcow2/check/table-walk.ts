// The walk of the L1 tables of the active layer and of all snapshots, and of the L2 tables that they refer to: counts the
// references of their entries and reports impossible ones (entry-walk.ts has L2 entries). An L2 table is read at most once, whatever the number of L1 entries, and never if it is a hole.

import { hex } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { ReadAhead } from '../../../host/read-ahead.ts';
import type { Geometry } from '../geometry.ts';
import type { Qcow2Header } from '../header/header.ts';
import { hasReservedBits, isCopied, offsetOf, readTable } from '../table.ts';
import type { ClusterUses } from './cluster-uses.ts';
import { EntryWalk } from './entry-walk.ts';
import type { Findings } from './findings.ts';
import type { OnDiskRefcounts } from './on-disk-refcounts.ts';
import type { Holes } from './table-holes.ts';
import { TableUses } from './table-uses.ts';

/** Bits that must be 0 in an L1 entry, in addition to those of every entry: bits 62 and 0. */
const L1_RESERVED_HIGH = 0x40000000;
const L1_RESERVED_LOW = 1;
/** L2 tables that follow each other in the file are read together. */
const READ_BYTES = 1024 * 1024;

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
  private readonly parts: TableWalkParts;
  private readonly entries: EntryWalk;
  private readonly tables = new TableUses();
  /** number of tables of the active layer: the first places, because its L1 table is walked first */
  private activeTables = 0;

  constructor(parts: TableWalkParts) {
    this.parts = parts;
    this.entries = new EntryWalk(parts);
  }

  /** Host offsets of zero entries whose preallocated cluster is impossible. */
  get badZeroEntries(): readonly number[] {
    return this.entries.badZeroEntries;
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
      if (hasReservedBits(high, low) || (high & L1_RESERVED_HIGH) !== 0 || (low & L1_RESERVED_LOW) !== 0)
        findings.unrepairable(`${nameOfEntry(index, at)} has reserved bits set`);
      const table = offsetOf(high, low);
      if (table === 0) continue;
      const kind = isActive ? 'active L2 table' : 'inactive L2 table';
      if (!uses.addCluster(table, () => nameOfEntry(index, at), kind, references)) {
        findings.unfollowed++;
        continue;
      }
      if (isActive) this.entries.compareFlag(at, table, isCopied(high));
      this.tables.add(table, references, index * geometry.l2Coverage);
    }
    if (isActive) this.activeTables = this.tables.size;
  }

  /** Walks all L2 tables that the L1 tables refer to. @param progress called with the fraction done, 0 to 1 */
  walkL2Tables(progress?: (fraction: number) => void): void {
    const { file, geometry } = this.parts;
    const { clusterSize } = geometry;
    const { tables } = this;
    const perRead = Math.min(tables.size, Math.max(1, READ_BYTES / clusterSize));
    const view = new DataView(new ArrayBuffer(perRead * clusterSize));
    const bytes = new Uint8Array(view.buffer);
    const ahead = new ReadAhead(file, clusterSize, tables.size, (place) => tables.tableAt(place));
    for (let place = 0; place < tables.size; ) {
      const first = tables.tableAt(place);
      const count = this.adjoiningTables(place, perRead);
      if (count > 0) ahead.read(bytes, count * clusterSize, place);
      for (let i = 0; i < count; i++, place++) {
        const isActive = place < this.activeTables;
        const use = { references: tables.referencesAt(place), isActive, guest: tables.guestAt(place) };
        this.entries.walk(view, i * clusterSize, first + i * clusterSize, use);
        progress?.((place + 1) / tables.size);
      }
      // this one is a hole: none of its entries is set
      if (count === 0) place++;
    }
  }

  /** Number of tables from `place` on, at most `most`, that follow each other in the file and are no holes. */
  private adjoiningTables(place: number, most: number): number {
    const { geometry, holes } = this.parts;
    const { clusterSize } = geometry;
    const { tables } = this;
    const first = tables.tableAt(place);
    let count = 0;
    while (count < most && place + count < tables.size) {
      const table = first + count * clusterSize;
      if (tables.tableAt(place + count) !== table) break;
      if (holes.isHole(table, clusterSize)) break;
      count++;
    }
    return count;
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

function nameOfEntry(index: number, at: number): string {
  return `L1 entry ${index} at offset ${hex(at)}`;
}
