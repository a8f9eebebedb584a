// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only, so
// it may be used after the lock is released as long as the range stays reserved (R2, R3).

import {
  after,
  type GuestCluster,
  type GuestOffset,
  type HostOffset,
  hex,
  hostOffset,
  remainder,
  SECTOR_BYTES,
  UNSET,
} from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { NOT_PENDING, type PendingLinks } from '../mapped/pending-links.ts';
import { type DataRun, MAX_LOOKS, type UnallocatedRun } from '../mapped/runs/run-mapper.ts';
import type { FileEnd } from '../mapped/space/file-end.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';
import { compressedLength, compressedOffset, isCompressed, type Tables, UNALLOCATED_ENTRY } from './table.ts';

/** Bytes of one compressed cluster. */
export interface CompressedRun {
  readonly status: 'compressed';
  readonly length: number;
  /** of the compressed data */
  readonly hostOffset: HostOffset;
  readonly storedLength: number;
}

export type Run = DataRun | UnallocatedRun | CompressedRun;
type Filled<R> = { -readonly [Field in keyof R]: R[Field] };

export interface MapperParts {
  readonly file: { readonly path: string };
  readonly geometry: Geometry;
  readonly tables: Tables;
  readonly pending: PendingLinks;
  readonly numbers: Pick<FileEnd, 'fileEnd'>;
}

/** No data: 0 is the header, so no cluster is there. */
const NO_HOST = hostOffset(0);

export class Mapper {
  /** the answers of map() */
  private readonly data: Filled<DataRun> = { status: 'data', hostOffset: UNSET, length: UNSET };
  private readonly unallocated: Filled<UnallocatedRun> = { status: 'unallocated', length: UNSET };
  private readonly compressed: Filled<CompressedRun> = {
    status: 'compressed',
    hostOffset: NO_HOST,
    storedLength: 0,
    length: 0,
  };
  /** of the cluster of the last look(): where its data begins, compressed or not, or NO_HOST */
  private host = NO_HOST;
  /** bytes of compressed data; 0 for a cluster that is not compressed */
  private storedLength = 0;
  private readonly parts: MapperParts;

  constructor(parts: MapperParts) {
    this.parts = parts;
  }

  /** The longest run of one status (and, for data, of adjoining host clusters) from `offset` on. */
  map(offset: GuestOffset, maxLength: number): Run {
    const { geometry, pending } = this.parts;
    const { clusterSize } = geometry;
    const end = offset + maxLength;
    let cluster = geometry.clusterOf(offset);
    let l1Index = geometry.l1IndexOf(cluster);
    let table = this.l2Table(l1Index);
    this.look(cluster, table);
    let covered = geometry.startOf(cluster) + clusterSize;
    if (this.storedLength > 0) return this.compressedRun(Math.min(covered, end) - offset);
    let host = this.host;
    const first = host;
    const inCluster = offset - geometry.startOf(cluster);
    for (let looks = 0; covered < end && looks < MAX_LOOKS; looks++) {
      cluster++;
      if (geometry.l2IndexOf(cluster) === 0) {
        l1Index++;
        table = this.l2Table(l1Index);
      }
      if (table === 0 && host === NO_HOST && pending.isEmpty) {
        cluster = after(geometry.firstClusterOf(l1Index), geometry.l2Entries - 1);
        covered = geometry.startOf(cluster) + clusterSize;
        continue;
      }
      this.look(cluster, table);
      if (this.storedLength > 0 || this.host !== (host === NO_HOST ? NO_HOST : host + clusterSize)) break;
      host = this.host;
      covered += clusterSize;
    }
    const run = first === NO_HOST ? this.unallocated : this.data;
    if (run.status === 'data') run.hostOffset = after(first, inCluster);
    run.length = Math.min(covered, end) - offset;
    return run;
  }

  private compressedRun(length: number): CompressedRun {
    const { compressed } = this;
    compressed.hostOffset = this.host;
    compressed.storedLength = this.storedLength;
    compressed.length = length;
    return compressed;
  }

  /** The plain data cluster of a guest cluster, as it will be once every pending link is made; null: it has none. */
  dataOf(cluster: GuestCluster): HostOffset | null {
    this.look(cluster, this.l2Table(this.parts.geometry.l1IndexOf(cluster)));
    return this.host === NO_HOST || this.storedLength > 0 ? null : this.host;
  }

  /** The guest cluster has data, compressed or not. */
  isAllocated(cluster: GuestCluster): boolean {
    this.look(cluster, this.l2Table(this.parts.geometry.l1IndexOf(cluster)));
    return this.host !== NO_HOST;
  }

  /** Fills `host` and `storedLength` with checked values. */
  private look(cluster: GuestCluster, table: HostOffset): void {
    const { geometry, pending, tables } = this.parts;
    this.storedLength = 0;
    const waiting = pending.find(cluster);
    this.host = waiting === NOT_PENDING ? NO_HOST : waiting;
    if (waiting !== NOT_PENDING || table === 0) return;
    const index = geometry.l2IndexOf(cluster);
    failpoint('l2-load');
    const at = tables.loadL2(table, index);
    const high = tables.slices.view.getUint32(at, false);
    if (!isCompressed(high)) {
      const entry = tables.entryAt(at);
      if (entry === UNALLOCATED_ENTRY) return;
      if (!this.isData(entry, table)) throw this.badEntry('L2', table + index * ENTRY_BYTES, index, at, cluster);
      this.host = hostOffset(entry);
      return;
    }
    const start = compressedOffset(high, tables.slices.view.getUint32(at + 4, false), geometry.clusterBits);
    const length = compressedLength(high, geometry.clusterBits);
    if (!this.isCompressedData(start, length))
      throw this.badEntry('L2', table + index * ENTRY_BYTES, index, at, cluster);
    this.host = hostOffset(start);
    this.storedLength = length;
  }

  /** Host offset of the L2 table behind L1 entry `l1Index`, or 0. */
  l2Table(l1Index: number): HostOffset {
    const { geometry, numbers, tables } = this.parts;
    failpoint('l1-load');
    const at = tables.loadL1(l1Index);
    const entry = tables.entryAt(at);
    const isTable = this.isInside(entry) && entry + geometry.tableBytes <= numbers.fileEnd;
    if (entry === UNALLOCATED_ENTRY || isTable) return hostOffset(entry);
    const offset = geometry.l1End - (geometry.l1Entries - l1Index) * ENTRY_BYTES;
    throw this.badEntry('L1', offset, l1Index, at, geometry.firstClusterOf(l1Index));
  }

  /** QEMU needs whole sectors; clusters that are aligned are what it makes. */
  private isInside(entry: number): boolean {
    const { geometry, numbers } = this.parts;
    return remainder(entry, SECTOR_BYTES) === 0 && entry >= geometry.l1End && entry < numbers.fileEnd;
  }

  /** An entry of `table` leads to a cluster of the file that is neither in the header, nor in the L1 table, nor in `table`. */
  isData(entry: number, table: HostOffset): boolean {
    const { clusterSize, tableBytes } = this.parts.geometry;
    return this.isInside(entry) && (entry + clusterSize <= table || entry >= table + tableBytes);
  }

  /** Whether compressed data can lie there. */
  isCompressedData(start: number, length: number): boolean {
    const { geometry, numbers } = this.parts;
    return length > 0 && start >= geometry.l1End && start + length <= numbers.fileEnd;
  }

  private badEntry(table: string, offset: number, index: number, at: number, cluster: GuestCluster): ImgfuseError {
    const { file, geometry, tables } = this.parts;
    return new ImgfuseError(
      'corrupt',
      `${file.path}: ${table} entry ${index} at offset ${hex(offset)} is ${tables.describe(at)}, which is no place of this file ` +
        `(guest offset ${hex(geometry.startOf(cluster))}); run imgfuse check -r all`,
      { path: file.path, offset },
    );
  }
}
