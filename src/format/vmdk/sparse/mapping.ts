// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only, so it may be
// used after the lock is released as long as the range stays reserved (R2, R3). Reads follow the first copy of the tables.

import {
  type GuestCluster,
  type GuestOffset,
  type HostOffset,
  hex,
  hostOffset,
  SECTOR_BYTES,
  UNSET,
} from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { NOT_PENDING, type PendingLinks } from '../../mapped/pending-links.ts';
import { type DataRun, MAX_LOOKS, type UnallocatedRun, type ZeroRun } from '../../mapped/runs/run-mapper.ts';
import type { Geometry } from './geometry.ts';
import { ENTRY_BYTES } from './header.ts';
import { overlapsAny, type Stretch, type TableLayout } from './layout.ts';
import type { SparseNumbers } from './state.ts';
import { type Tables, UNALLOCATED, ZEROS } from './table.ts';

export type Run = DataRun | ZeroRun | UnallocatedRun;
type Filled<R> = { -readonly [Field in keyof R]: R[Field] };
const NO_TABLE = hostOffset(0);

export class Mapper {
  /** the answers of map() */
  private readonly data: Filled<DataRun> = { status: 'data', hostOffset: UNSET, length: UNSET };
  private readonly zero: Filled<ZeroRun> = { status: 'zero', length: UNSET };
  private readonly unallocated: Filled<UnallocatedRun> = { status: 'unallocated', length: UNSET };
  private readonly file: Pick<HostFile, 'path' | 'readOnly'>;
  private readonly fixed: readonly Stretch[];
  private readonly hasZeroGrains: boolean;
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly pending: PendingLinks;
  private readonly numbers: Pick<SparseNumbers, 'directoryOffset' | 'fileEnd' | 'redundantOffset'>;

  constructor(
    file: Pick<HostFile, 'path' | 'readOnly'>,
    layout: TableLayout,
    geometry: Geometry,
    tables: Tables,
    pending: PendingLinks,
    numbers: Pick<SparseNumbers, 'directoryOffset' | 'fileEnd' | 'redundantOffset'>,
  ) {
    this.file = file;
    this.fixed = layout.fixed;
    this.hasZeroGrains = layout.hasZeroGrains;
    this.geometry = geometry;
    this.tables = tables;
    this.pending = pending;
    this.numbers = numbers;
  }

  /** The longest run of one status (and, for data, of adjoining grains of the file) from `offset` on. */
  map(offset: GuestOffset, maxLength: number): Run {
    const { geometry, pending } = this;
    const { grainBytes, tableEntries } = geometry;
    const end = offset + maxLength;
    let grain = geometry.grainOf(offset);
    let table = this.table(geometry.directoryIndexOf(grain));
    let place = this.lookup(grain, table);
    const run = this.runOf(place);
    if (run.status === 'data') run.hostOffset = hostOffset(place + (offset - geometry.startOf(grain)));
    let covered = geometry.startOf(grain) + grainBytes;
    for (let looks = 0; covered < end && looks < MAX_LOOKS; looks++) {
      grain++;
      const index = geometry.tableIndexOf(grain);
      if (index === 0) table = this.table(geometry.directoryIndexOf(grain));
      if (table === NO_TABLE && run.status === 'unallocated' && pending.isEmpty) {
        grain = (grain - index + tableEntries - 1) as GuestCluster;
        covered = geometry.startOf(grain) + grainBytes;
        continue;
      }
      const next = this.lookup(grain, table);
      if (run.status === 'data' ? next !== place + grainBytes : next !== place) break;
      place = next;
      covered += grainBytes;
    }
    run.length = Math.min(covered, end) - offset;
    return run;
  }

  private runOf(place: number): Filled<Run> {
    if (place === UNALLOCATED) return this.unallocated;
    return place === ZEROS ? this.zero : this.data;
  }

  /** Where a grain is once every pending link is made: UNALLOCATED, ZEROS or a checked offset in the file. */
  lookup(grain: GuestCluster, table: HostOffset): number {
    const waiting = this.pending.find(grain);
    if (waiting !== NOT_PENDING) return waiting;
    if (table === NO_TABLE) return UNALLOCATED;
    const index = this.geometry.tableIndexOf(grain);
    failpoint('l2-load');
    const entry = this.tables.load(table, index);
    const place = this.placeOf(entry, table);
    if (place !== null) return place;
    const guest = `guest offset ${hex(this.geometry.startOf(grain))} of the extent`;
    throw this.badEntry('grain table', table, index, entry, guest);
  }

  /** What an entry of `table` means; null if it is no place for a grain in this file. */
  placeOf(entry: number, table: HostOffset): number | null {
    if (entry === 0) return UNALLOCATED;
    if (entry === 1 && this.hasZeroGrains) return ZEROS;
    const { grainBytes, tableBytes } = this.geometry;
    const host = entry * SECTOR_BYTES;
    if (!this.isPlace(host, grainBytes)) return null;
    return host < table + tableBytes && host + grainBytes > table ? null : host;
  }

  /** The grain table of a directory entry; 0: there is none. */
  table(directoryIndex: number): HostOffset {
    failpoint('l1-load');
    return this.tableOf(this.numbers.directoryOffset, directoryIndex);
  }

  /** The second copy of a grain table; 0: there is none, or both directories lead to the same. */
  redundantTable(directoryIndex: number): HostOffset {
    const { redundantOffset } = this.numbers;
    if (redundantOffset === 0) return NO_TABLE;
    const table = this.tableOf(redundantOffset, directoryIndex);
    return table === this.table(directoryIndex) ? NO_TABLE : table;
  }

  private tableOf(directory: HostOffset, index: number): HostOffset {
    const entry = this.tables.load(directory, index);
    const table = hostOffset(entry * SECTOR_BYTES);
    if (entry === 0 || this.isPlace(table, this.geometry.tableBytes)) return table;
    throw this.badEntry(
      'grain directory',
      directory,
      index,
      entry,
      `guest offset ${hex(index * this.geometry.tableCoverage)} of the extent`,
    );
  }

  /** A truncated copy, which is only read, is read as far as it goes. */
  private isPlace(start: number, bytes: number): boolean {
    const { fileEnd } = this.numbers;
    if (start + (this.file.readOnly ? 1 : bytes) > fileEnd) return false;
    return !overlapsAny(this.fixed, start, start + bytes);
  }

  private badEntry(what: string, table: HostOffset, index: number, entry: number, guest: string): ImgfuseError {
    const { path } = this.file;
    const offset = table + index * ENTRY_BYTES;
    const isTruncated = entry * SECTOR_BYTES >= this.numbers.fileEnd;
    const why = isTruncated ? 'beyond the end of the file' : 'no place for it in this file';
    return new ImgfuseError(
      'corrupt',
      `${path}: ${what} entry ${index} at offset ${hex(offset)} is sector ${hex(entry)}, ${why} (${guest}); run imgfuse check -r all`,
      { path, offset, ...(isTruncated ? { isTruncated } : {}) },
    );
  }
}
