// The walk that finds every reference of an image: header, refcount structures (refcount-walk.ts), L1 and L2 tables of the
// active layer and of all snapshots (table-walk.ts), snapshot table, bitmaps, encryption header. It counts them and says what
// cannot be true; it changes nothing. A table is read once however many entries refer to it, and not where it lies in a hole,
// so no image can make the walk longer than what its file has on the host.

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
  /** one sentence per finding, corruptions with "ERROR " before them */
  readonly log: (sentence: string) => void;
  /** fraction of the work done, 0 to 1 */
  readonly progress?: ((fraction: number) => void) | undefined;
  /** told where metadata is */
  readonly mark?: MarkMetadata | undefined;
}

/** What it found out is read from it, and a check that goes on adds what it finds itself. */
export class ReferenceWalk extends Findings {
  readonly geometry: Geometry;
  readonly counters: OnDiskRefcounts;
  readonly uses: ClusterUses;
  readonly tables: TableWalk;
  readonly holes: Holes;
  /** nothing else refers to the clusters of the active L1 table */
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
        // no program makes such tables; walked one by one they could take any time
        if (offset < end) this.cannotFollow(`an L1 table at ${hex(offset)} lies in that of another snapshot`);
        else this.tables.walkL1(offset, entries, false, references);
        end = Math.max(end, offset + entries * 8);
      }
    } catch (error) {
      this.cannotFollowFor(error);
    }
  }

  /** A damaged table is a finding. A host that cannot read, or a bug, ends the walk: neither says anything of the image. */
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

  /** What is written in place whoever else refers to it: the header, the active L1 table and the refcount structures. */
  private checkExclusive(): void {
    const { header, geometry, uses } = this;
    const { clusterSize } = geometry;
    const l1 = { start: header.l1TableOffset / clusterSize, count: Math.ceil((header.l1Size * 8) / clusterSize) };
    const isShared = ({ start, count }: ClusterSpan, references: (cluster: number) => number): boolean => {
      for (let cluster = start; cluster < start + count; cluster++) if (references(cluster) !== 1) return true;
      return false;
    };
    const rest = (cluster: number): number => uses.referencesToKeep(cluster);
    if (isShared({ start: 0, count: 1 }, rest)) this.unrepairable('something refers to the cluster of the header');
    this.isL1Alone = header.l1Size === 0 || !isShared(l1, rest);
    if (!this.isL1Alone) this.unrepairable('something else refers to the clusters of the active L1 table');
    const inBadTables = new Set(this.tables.badZeroes.map((at) => at - (at % clusterSize)));
    for (const table of inBadTables) {
      // copied before it is changed, once the counters are true; until then it is data as well, and stays as it is
      if (!this.tables.isOnlyTable(table))
        this.unrepairable(`something else refers to the L2 table at ${hex(table)}, which has impossible entries`);
    }
    for (const span of uses.refcountSpans) {
      if (isShared(span, (cluster) => uses.counts.get(cluster)))
        this.structureFault(`something else refers to the refcount structures at ${hex(span.start * clusterSize)}`);
    }
  }
}
