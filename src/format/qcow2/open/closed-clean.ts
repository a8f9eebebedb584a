// Opening an image that imgfuse has closed clean and nothing has changed since (OpenOptions.closedFacts). What a walk of all tables
// would find is known: every counter and flag is right. Only the places of the tables themselves are read, from the L1 tables
// and the refcount table. Guest data never goes to one of them, whatever the L2 tables say (overlap.ts).

import { combine } from '../../../bytes/endian.ts';
import { hostCluster, roundUp } from '../../../bytes/offsets.ts';
import type { SharedByteMapState } from '../../../concurrency/shared-byte-map.ts';
import { isCorrupt } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { countOf, pairsOf } from '../../closed-facts.ts';
import type { ClosedFacts } from '../../image-format.ts';
import { trackedClusters } from '../../mapped/free-clusters.ts';
import { STRETCH_CLUSTERS, stretchesOf } from '../counters/unread-free.ts';
import { bitmapRanges } from '../header/bitmap-directory.ts';
import type { Qcow2Header } from '../header/header.ts';
import { checkSnapshotL1, readSnapshotTable } from '../header/snapshot-table.ts';
import { createMetadataClustersState, MetadataClusters, type MetadataKind } from '../metadata-clusters.ts';
import type { TablePlace } from '../state.ts';
import { offsetOf, readTable } from '../table.ts';

export interface KnownImage {
  readonly metadata: SharedByteMapState;
  readonly allocatedClusters: number;
  /** free clusters of stretches of the file (unread-free.ts) */
  readonly free: Iterable<readonly [stretch: number, count: number]>;
}

/** The facts as JSON has them. */
export function closedFactsOf(allocatedClusters: number, free: ReadonlyMap<number, number>): ClosedFacts {
  return { allocatedClusters, free: [...free] };
}

/** null if the facts, or the tables, are not those of an image that was closed clean: the open walks then. */
export function knownImage(file: HostFile, header: Qcow2Header, facts: ClosedFacts | undefined): KnownImage | null {
  const { clusterSize, size: virtualSize } = header;
  if (facts === undefined || header.isDirty || header.isCorrupt) return null;
  const size = roundUp(file.size(), clusterSize);
  const clusters = size / clusterSize;
  const allocatedClusters = countOf(facts, 'allocatedClusters', Math.ceil(virtualSize / clusterSize));
  const free = pairsOf(facts, 'free', stretchesOf(clusters), STRETCH_CLUSTERS);
  if (allocatedClusters === null || free === null) return null;
  const metadata = createMetadataClustersState(trackedClusters(clusterSize, size, virtualSize));
  try {
    const isMarked = new TablePlaces(file, header, new MetadataClusters(metadata)).mark();
    return isMarked ? { metadata, allocatedClusters, free } : null;
  } catch (error) {
    if (!isCorrupt(error)) throw error;
    return null;
  }
}

/** Marks the clusters of all tables. */
class TablePlaces {
  private readonly file: HostFile;
  private readonly header: Qcow2Header;
  private readonly metadata: MetadataClusters;
  /** the last cluster of the file may be incomplete */
  private readonly fileSize: number;

  constructor(file: HostFile, header: Qcow2Header, metadata: MetadataClusters) {
    this.file = file;
    this.header = header;
    this.metadata = metadata;
    this.fileSize = roundUp(file.size(), header.clusterSize);
  }

  /** @returns false if one of them is not a cluster of the file @throws ImgfuseError corrupt */
  mark(): boolean {
    const { clusterSize, l1Size, l1TableOffset, refcountTableClusters, refcountTableOffset } = this.header;
    const refcountTable = { offset: refcountTableOffset, entries: (refcountTableClusters * clusterSize) / 8 };
    return (
      this.markRange('header', 0, clusterSize) &&
      this.markTable('refcount table', refcountTable, 'refcount block', combine) &&
      this.markTable('active L1 table', { offset: l1TableOffset, entries: l1Size }, 'active L2 table', offsetOf) &&
      this.markSnapshots() &&
      this.markOthers()
    );
  }

  /** A table, and the tables or blocks of one cluster that its entries lead to. */
  private markTable(
    kind: MetadataKind,
    { offset, entries }: TablePlace,
    entryKind: MetadataKind,
    placeOf: (high: number, low: number) => number,
  ): boolean {
    const bytes = entries * 8;
    if (bytes === 0) return true;
    if (!this.markRange(kind, offset, bytes)) return false;
    const table = readTable(this.file, offset, bytes);
    for (let at = 0; at < bytes; at += 8) {
      const place = placeOf(table.getUint32(at), table.getUint32(at + 4));
      if (place !== 0 && !this.markRange(entryKind, place, this.header.clusterSize)) return false;
    }
    return true;
  }

  private markSnapshots(): boolean {
    const { file, header } = this;
    if (header.snapshotCount === 0) return true;
    const { snapshots, length } = readSnapshotTable(file, header);
    if (!this.markRange('snapshot table', header.snapshotsOffset, length)) return false;
    const tables = new Map<number, number>();
    for (const snapshot of snapshots) {
      checkSnapshotL1(file, header.clusterSize, snapshot);
      tables.set(snapshot.l1TableOffset, Math.max(snapshot.l1Size, tables.get(snapshot.l1TableOffset) ?? 0));
    }
    let end = 0;
    for (const [offset, entries] of [...tables].sort(([one], [other]) => one - other)) {
      if (offset < end && entries > 0) return false;
      if (!this.markTable('inactive L1 table', { offset, entries }, 'inactive L2 table', offsetOf)) return false;
      end = offset + entries * 8;
    }
    return true;
  }

  private markOthers(): boolean {
    const { cryptoHeader } = this.header;
    for (const { offset, length } of bitmapRanges(this.file, this.header)) {
      if (!this.markRange('bitmap', offset, length)) return false;
    }
    return cryptoHeader === null || this.markRange('encryption header', cryptoHeader.offset, cryptoHeader.length);
  }

  /** The clusters of [offset, offset + length), which begins with one. @returns whether they are clusters of the file */
  private markRange(kind: MetadataKind, offset: number, length: number): boolean {
    const { clusterSize } = this.header;
    if (!(offset % clusterSize === 0 && offset >= 0 && offset + length <= this.fileSize)) return false;
    this.metadata.mark(kind, hostCluster(offset / clusterSize), Math.ceil(length / clusterSize));
    return true;
  }
}
