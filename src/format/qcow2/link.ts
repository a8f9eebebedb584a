// Changes of L2 entries and of the L1 entries above them. An L2 table that is missing or shared with a snapshot is made or
// copied first; its L1 entry waits in `pendingTables` until counter and content are durable, and until then only memory
// knows the new table. Data links wait in `pending` for the same reason. Used under the metadata lock.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  type HostCluster,
  type HostOffset,
  hostOffset,
} from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import { NOT_PENDING, type PendingLink, type PendingLinks } from '../mapped/pending-links.ts';
import type { Allocator } from './allocate.ts';
import { parseCompressedDescriptor } from './compressed.ts';
import type { DeferredDecrements } from './counters/deferred-decrements.ts';
import type { Geometry } from './geometry.ts';
import { type Mapper, NO_HOST } from './mapping.ts';
import type { MetadataClusters } from './metadata-clusters.ts';
import type { OverlapCheck } from './overlap.ts';
import type { Qcow2Numbers } from './state.ts';
import {
  DATA_BITMAP,
  type SubclusterBitmap,
  type SubclusterStatus,
  subclustersTouched,
  UNALLOCATED_BITMAP,
  withSubclusters,
  ZERO_BITMAP,
} from './subcluster.ts';
import { offsetOf, QCOW_OFLAG_COPIED, QCOW_OFLAG_ZERO, type Tables } from './table.ts';

const COPIED = { high: QCOW_OFLAG_COPIED, low: 0 } as const;
const UNALLOCATED = { high: 0, low: 0 } as const;
/** An extended entry that leads to no host cluster. */
const NOWHERE = hostOffset(0);
const ZERO = { high: 0, low: QCOW_OFLAG_ZERO } as const;

/** Host clusters that an entry refers to. */
interface Reference {
  readonly first: HostCluster;
  /** clusters with a counter; 0 in a data file, which has none */
  readonly count: number;
  readonly isData: boolean;
}

export interface LinkerParts {
  readonly file: HostFile;
  readonly clusterBits: number;
  readonly hasDataFile: boolean;
  readonly geometry: Geometry;
  readonly tables: Tables;
  readonly mapper: Mapper;
  readonly allocator: Allocator;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks<number>;
  readonly decrements: DeferredDecrements;
  readonly numbers: Pick<Qcow2Numbers, 'l1Offset'>;
  readonly disk: Pick<DiskNumbers, 'addAllocated' | 'removeAllocated'>;
  readonly metadata: MetadataClusters;
  readonly overlap: OverlapCheck;
}

export class Linker {
  private readonly parts: LinkerParts;

  constructor(parts: LinkerParts) {
    this.parts = parts;
  }

  /** Clusters from `guestCluster` on that one store can change: they share a slice of one L2 table. */
  span(guestCluster: GuestCluster): number {
    const { geometry, tables } = this.parts;
    const index = geometry.l2IndexOf(guestCluster);
    const inSlice = tables.slices.bytesInSlice(index * geometry.l2EntryBytes) / geometry.l2EntryBytes;
    return Math.min(inSlice, geometry.l2Entries - index);
  }

  /** L2 tables that a change of these clusters may have to make. */
  tablesTouched(firstCluster: GuestCluster, count: number): number {
    const { geometry } = this.parts;
    return geometry.l1IndexOf(after(firstCluster, count - 1)) - geometry.l1IndexOf(firstCluster) + 1;
  }

  /**
   * Room for `clusters` more links in `tables` more L2 tables, and in the log of deferred decrements for `released` runs now and
   * for one of each link, which a flush adds while it is at work.
   */
  hasRoom(clusters: number, tables: number, released: number): boolean {
    const { pending, pendingTables, decrements } = this.parts;
    if (!pending.hasRoom(clusters) || !pendingTables.hasRoom(tables)) return false;
    return decrements.hasRoom(released + pending.count + clusters + pendingTables.count + tables);
  }

  /**
   * The guest bytes [offset, offset + length) got their data in adjoining clusters from `host` on; the links wait for the
   * next sync. There is room in `pending` and `pendingTables`. @param created clusters that are new at `host`
   */
  hold(offset: GuestOffset, length: number, host: HostOffset, created: number, nowMs: number): void {
    const { disk, geometry, pending } = this.parts;
    const { clusterSize } = geometry;
    const first = geometry.clusterOf(offset);
    const count = geometry.clustersFor(offset + length) - first;
    for (let i = 0; i < count; i++) {
      const cluster = after(first, i);
      if (i === 0 || geometry.l2IndexOf(cluster) === 0) this.writableTable(geometry.l1IndexOf(cluster), nowMs);
    }
    // all that may fail (an L2 entry that cannot be read) comes before the first link: the caller gives all clusters back then
    const bitmaps: SubclusterBitmap[] = [];
    for (let i = 0; geometry.extendedL2 && i < count; i++) {
      const cluster = after(first, i);
      const clusterStart = geometry.startOf(cluster);
      const start = Math.max(offset, clusterStart);
      const part = Math.min(offset + length, clusterStart + clusterSize) - start;
      const touched = subclustersTouched(start - clusterStart, part, clusterSize);
      bitmaps.push(withSubclusters(this.subclustersOf(cluster), touched.first, touched.count, 'data'));
    }
    for (let i = 0; i < count; i++) {
      const { allocated, zero } = bitmaps[i] ?? DATA_BITMAP;
      pending.add(after(first, i), after(host, i * clusterSize), nowMs, allocated, zero);
    }
    disk.addAllocated(created);
  }

  /** The subclusters of a guest cluster; those of a compressed cluster all have data. */
  subclustersOf(guestCluster: GuestCluster): SubclusterBitmap {
    const { geometry, mapper } = this.parts;
    const { status, subclusters } = mapper.lookup(guestCluster, mapper.l2Table(geometry.l1IndexOf(guestCluster)));
    return status === 'compressed' ? DATA_BITMAP : subclusters;
  }

  /**
   * Subclusters of one cluster that is not compressed read as zeros, or as unallocated; its host cluster stays.
   * There is room in `pending` and `pendingTables`.
   */
  replaceSubclusters(guestCluster: GuestCluster, first: number, count: number, asZero: boolean, nowMs: number): void {
    const { geometry, mapper, pending, tables } = this.parts;
    const l1Index = geometry.l1IndexOf(guestCluster);
    const { host, copied, subclusters } = mapper.lookup(guestCluster, mapper.l2Table(l1Index));
    const wanted: SubclusterStatus = asZero ? 'zero' : 'unallocated';
    const changed = withSubclusters(subclusters, first, count, wanted);
    if (changed.allocated === subclusters.allocated && changed.zero === subclusters.zero) return;
    const table = this.writableTable(l1Index, nowMs);
    // an entry that waits would bring back what it says about these subclusters
    if (pending.find(guestCluster) !== NOT_PENDING) {
      pending.add(guestCluster, host, nowMs, changed.allocated, changed.zero);
      return;
    }
    const entry = { host: host === NO_HOST ? NOWHERE : host, copied, subclusters: changed };
    tables.storeExtended(table, geometry.l2IndexOf(guestCluster), [entry]);
  }

  /**
   * Clusters of one slice lose their data and read as zeros, or as unallocated. @returns whether anything changed
   */
  replace(guestCluster: GuestCluster, count: number, asZero: boolean, nowMs: number): boolean {
    const { disk, geometry, mapper, pending, decrements, tables } = this.parts;
    const l1Index = geometry.l1IndexOf(guestCluster);
    const present = mapper.l2Table(l1Index);
    const wanted = asZero ? ZERO_BITMAP : UNALLOCATED_BITMAP;
    let changes = false;
    for (let i = 0; i < count && !changes; i++) {
      const { status, host, subclusters } = mapper.lookup(after(guestCluster, i), present);
      changes = host !== NO_HOST || status === 'compressed' || subclusters.zero !== wanted.zero;
    }
    if (!changes) return false;
    failpoint('discard');
    const table = this.writableTable(l1Index, nowMs);
    const index = geometry.l2IndexOf(guestCluster);
    const replaced = this.referred(table, index, count);
    if (geometry.extendedL2) {
      tables.storeExtended(table, index, new Array(count).fill({ host: NOWHERE, copied: false, subclusters: wanted }));
    } else {
      tables.store('l2-update', { table, index, count, flags: asZero ? ZERO : UNALLOCATED, step: 0 });
    }
    // only now does memory change (R8)
    let lost = this.release(replaced);
    for (let i = 0; i < count; i++) {
      const waiting = pending.drop(after(guestCluster, i));
      if (waiting === NOT_PENDING) continue;
      const dropped = geometry.clusterOf(waiting);
      if (replaced.some(({ first }) => first === dropped)) continue;
      // never linked, but readers before this request may have been told where it is: log its release, like any replaced cluster's
      if (!this.parts.hasDataFile) decrements.add(dropped, 1);
      lost++;
    }
    disk.removeAllocated(lost);
    return true;
  }

  /** Writes the L1 entries of the first `count` waiting tables, whose content is durable; what they replace is logged. */
  linkTables(count: number): void {
    const { geometry, numbers, pendingTables, decrements, tables } = this.parts;
    const l1 = numbers.l1Offset;
    for (const { guestCluster: l1Index, hostOffset: host } of pendingTables.first(count)) {
      const { high, low } = tables.load(l1, l1Index);
      const old = offsetOf(high, low);
      if (old !== 0) this.parts.overlap.assertTable(old, 'active L2 table');
      tables.storeEntry('l1-update', { table: l1, index: l1Index, flags: COPIED, host });
      // a later entry that fails must not make this one be linked again: what it replaced then would be its own table
      pendingTables.drop(l1Index, count);
      if (old !== 0) decrements.add(geometry.clusterOf(old), 1);
    }
    pendingTables.removeFirst(count);
  }

  /**
   * Writes L2 entries of one slice for clusters that waited among the first `count` entries, and whose data is durable; what they
   * replace is logged.
   */
  linkSlice(links: readonly PendingLink[], count: number): void {
    const { disk, geometry, mapper, pending, tables } = this.parts;
    const { guestCluster: first } = links[0]!;
    const table = mapper.l2Table(geometry.l1IndexOf(first));
    assert(table !== 0, 'a cluster that waits for its link has an L2 table');
    this.parts.overlap.assertTable(table, 'active L2 table');
    const index = geometry.l2IndexOf(first);
    const replaced: Reference[] = [];
    for (const { guestCluster, hostOffset } of links) {
      this.addReferred(replaced, table, index + guestCluster - first, hostOffset);
    }
    if (geometry.extendedL2) tables.storeExtendedLinks(table, index, links);
    else tables.storeLinks(table, index, COPIED, links);
    // only now does memory change (R8); a later slice that fails must not make this one be linked, and released, again
    for (const { guestCluster } of links) pending.drop(guestCluster, count);
    disk.removeAllocated(this.release(replaced));
  }

  /** The L2 table of `l1Index`, ours alone: made if there is none, copied if it is shared. */
  writableTable(l1Index: number, nowMs: number): HostOffset {
    const { allocator, file, geometry, mapper, metadata, overlap, pendingTables, tables } = this.parts;
    const present = mapper.l2Table(l1Index);
    if (present !== 0) overlap.assertTable(present, 'active L2 table');
    if (present !== 0 && mapper.isTableWritable(l1Index)) return present;
    const { clusterSize } = geometry;
    const { offset: created } = allocator.allocateExactly(1);
    try {
      const content = new Uint8Array(clusterSize);
      if (present !== 0) file.read(content, 0, clusterSize, present);
      tables.slices.forget(created, clusterSize);
      file.write(content, 0, clusterSize, created);
    } catch (error) {
      allocator.giveBack(created, 1);
      throw error;
    }
    metadata.mark('active L2 table', geometry.clusterOf(created), 1);
    pendingTables.add(l1Index, created, nowMs);
    return created;
  }

  /** What the entries [index, index + count) of an L2 table refer to. */
  private referred(table: HostOffset, index: number, count: number): Reference[] {
    const found: Reference[] = [];
    for (let i = 0; i < count; i++) this.addReferred(found, table, index + i, NO_HOST);
    return found;
  }

  /** Adds what an L2 entry refers to. @param kept the cluster that it will refer to, and may refer to already: that is left out */
  private addReferred(found: Reference[], table: HostOffset, index: number, kept: HostOffset): void {
    const { clusterBits, geometry, hasDataFile, mapper, overlap } = this.parts;
    const { status, host, high, low } = mapper.load(table, index);
    if (status === 'compressed') {
      const { hostOffset: start, length } = parseCompressedDescriptor(high, low, clusterBits);
      const first = geometry.clusterOf(start);
      overlap.assertData(start, length);
      found.push({ first, count: geometry.clusterOf(after(start, length - 1)) - first + 1, isData: true });
    } else if (host !== NO_HOST && host !== kept) {
      overlap.assertData(host, geometry.clusterSize);
      found.push({ first: geometry.clusterOf(host), count: hasDataFile ? 0 : 1, isData: status === 'data' });
    }
  }

  /** Logs their release. @returns how many of them were data */
  private release(references: readonly Reference[]): number {
    for (const { first, count } of references) if (count > 0) this.parts.decrements.add(first, count);
    return references.filter(({ isData }) => isData).length;
  }
}
