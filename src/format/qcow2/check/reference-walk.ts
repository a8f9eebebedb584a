// Finds every reference of an image: header, refcount structures (refcount-walk.ts), L1 and L2 tables of the active layer and
// of all snapshots (table-walk.ts), snapshot table, bitmaps, encryption header. It counts the references, reports impossible
// ones, and changes nothing. A table is read once, whatever the number of entries that refer to it, and not at all if it lies
// in a hole, so the walk takes no longer than reading the data that the file has on its host.

import { hex } from '../../../bytes/offsets.ts';
import { describeError, isCorrupt } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { Geometry } from '../geometry.ts';
import { bitmapRanges } from '../header/bitmap-directory.ts';
import type { Qcow2Header } from '../header/header.ts';
import { checkSnapshotL1, readSnapshotTable } from '../header/snapshot-table.ts';
import { type ClusterSpan, ClusterUses, type MarkMetadata } from './cluster-uses.ts';
import { Findings } from './findings.ts';
import { OnDiskRefcounts } from './on-disk-refcounts.ts';
import { walkRefcountTable } from './refcount-walk.ts';
import { Holes } from './table-holes.ts';
import { TableWalk } from './table-walk.ts';

export interface WalkOptions {
  /** called once per finding; the sentence of a corruption starts with "ERROR " */
  readonly log: (sentence: string) => void;
  /** fraction of the work done, 0 to 1 */
  readonly progress?: ((fraction: number) => void) | undefined;
  /** called with each run of metadata clusters */
  readonly mark?: MarkMetadata | undefined;
}

/** Its fields are the result of run(); a check adds its own findings to them. */
export class ReferenceWalk extends Findings {
  readonly geometry: Geometry;
  readonly counters: OnDiskRefcounts;
  readonly uses: ClusterUses;
  readonly tables: TableWalk;
  readonly holes: Holes;
  /** whether the header alone refers to the clusters of the active L1 table */
  isL1Alone = true;
  private readonly file: HostFile;
  private readonly header: Qcow2Header;
  private readonly options: WalkOptions;

  constructor(file: HostFile, header: Qcow2Header, options: WalkOptions) {
    super(options.log);
    this.file = file;
    this.header = header;
    this.options = options;
    const geometry = new Geometry(header.clusterBits, header.refcountOrder, header.extendedL2);
    this.geometry = geometry;
    const holes = new Holes(file);
    this.holes = holes;
    const counters = new OnDiskRefcounts(file, geometry, holes);
    this.counters = counters;
    const uses = new ClusterUses(file.size(), geometry, this, options.mark);
    this.uses = uses;
    this.tables = new TableWalk({ file, header, geometry, uses, findings: this, counters, holes });
  }

  run(): this {
    const { counters, file, header, report, geometry, tables, uses } = this;
    report.totalClusters = Math.ceil(header.size / geometry.clusterSize);
    uses.add(0, geometry.clusterSize, 'the header', 'header');
    walkRefcountTable({ file, header, uses, findings: this, counters });
    tables.walkL1(header.l1TableOffset, header.l1Size, true);
    if (header.snapshotCount > 0) this.walkSnapshots();
    tables.walkL2Tables(this.options.progress);
    this.walkBitmaps();
    if (header.cryptoHeader !== null) {
      uses.add(header.cryptoHeader.offset, header.cryptoHeader.length, 'the encryption header', 'encryption header');
    }
    this.checkExclusive();
    return this;
  }

  private walkSnapshots(): void {
    const { clusterSize, snapshotsOffset } = this.header;
    try {
      const { snapshots, length } = readSnapshotTable(this.file, this.header);
      this.uses.add(snapshotsOffset, length, 'the snapshot table', 'snapshot table');
      const tables = new Map<string, { readonly offset: number; readonly entries: number; references: number }>();
      for (const snapshot of snapshots) {
        const { l1TableOffset: offset, l1Size: entries } = snapshot;
        try {
          checkSnapshotL1(this.file, clusterSize, snapshot);
        } catch (error) {
          this.cannotFollowFor(error);
          continue;
        }
        const known = tables.get(`${offset} ${entries}`);
        if (known === undefined) tables.set(`${offset} ${entries}`, { offset, entries, references: 1 });
        else known.references++;
      }
      let end = 0;
      for (const { offset, entries, references } of [...tables.values()].sort((a, b) => a.offset - b.offset)) {
        // no program makes overlapping tables, and walking each of them could take any time
        if (offset < end) this.cannotFollow(`an L1 table at ${hex(offset)} lies in that of another snapshot`);
        else this.tables.walkL1(offset, entries, false, references);
        end = Math.max(end, offset + entries * 8);
      }
    } catch (error) {
      this.cannotFollowFor(error);
    }
  }

  /** Reports a damaged table and rethrows any other error: a read error of the host or a bug is not a fault of the image. */
  private cannotFollowFor(error: unknown): void {
    if (!isCorrupt(error)) throw error;
    this.cannotFollow(describeError(error));
  }

  private walkBitmaps(): void {
    try {
      for (const { offset, length } of bitmapRanges(this.file, this.header))
        this.uses.add(offset, length, 'a bitmap', 'bitmap');
    } catch (error) {
      this.cannotFollowFor(error);
    }
  }

  /** Reports second references to the clusters that are written in place: header, active L1 table, refcount structures. */
  private checkExclusive(): void {
    const { header, geometry, uses } = this;
    const { clusterSize } = geometry;
    const l1 = { start: header.l1TableOffset / clusterSize, count: Math.ceil((header.l1Size * 8) / clusterSize) };
    const isShared = ({ start, count }: ClusterSpan, references: (cluster: number) => number): boolean => {
      for (let cluster = start; cluster < start + count; cluster++) if (references(cluster) !== 1) return true;
      return false;
    };
    const referencesToKeep = (cluster: number): number => uses.referencesToKeep(cluster);
    if (isShared({ start: 0, count: 1 }, referencesToKeep))
      this.unrepairable('something refers to the cluster of the header');
    this.isL1Alone = header.l1Size === 0 || !isShared(l1, referencesToKeep);
    if (!this.isL1Alone) this.unrepairable('something else refers to the clusters of the active L1 table');
    const tablesToRepair = new Set(this.tables.badZeroEntries.map((at) => at - (at % clusterSize)));
    for (const table of tablesToRepair) {
      // a repair must not change a table that is also data; a write copies it first, but only after the counters are right
      if (!this.tables.isOnlyTable(table))
        this.unrepairable(`something else refers to the L2 table at ${hex(table)}, which has impossible entries`);
    }
    for (const span of uses.refcountSpans) {
      if (isShared(span, (cluster) => uses.counts.get(cluster)))
        this.structureFault(`something else refers to the refcount structures at ${hex(span.start * clusterSize)}`);
    }
  }
}
