// Guest range -> runs, for kinds of extents that are only read. Each thread keeps what it needs by itself: nothing changes the file.

import { type GuestOffset, type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import { createTableCacheState, MAX_SLICE_BYTES, TableCache } from '../../../concurrency/table-cache.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type DataRun, MAX_LOOKS, type UnallocatedRun, type ZeroRun } from '../../mapped/runs/run-mapper.ts';
import { TableSlices } from '../../mapped/table-slices.ts';

/** One grain, which must be decompressed. */
export interface CompressedRun {
  readonly status: 'compressed';
  readonly length: number;
  /** where its marker, or its data, begins */
  readonly hostOffset: HostOffset;
}

export type Run = DataRun | ZeroRun | UnallocatedRun | CompressedRun;

/** What an entry means as a place in the file: bytes, or one of these two. */
export const UNALLOCATED = 0;
export const ZEROS = 1;

/** The tables of a kind. */
export interface GrainLookup {
  readonly grainBytes: number;
  readonly tableEntries: number;
  /** the grains are compressed */
  readonly isCompressed: boolean;
  /** Offset of a grain table; 0: there is none. @throws corrupt */
  table(directoryIndex: number): number;
  /** UNALLOCATED, ZEROS or an offset in the file. @throws corrupt */
  place(table: number, index: number): number;
}

export class Mapper {
  private readonly lookup: GrainLookup;

  constructor(lookup: GrainLookup) {
    this.lookup = lookup;
  }

  /** The longest run of one status (and, for data, of adjoining grains of the file) from `offset` on. */
  map(offset: GuestOffset, maxLength: number): Run {
    const { lookup } = this;
    const { grainBytes, isCompressed, tableEntries } = lookup;
    const end = offset + maxLength;
    let grain = Math.floor(offset / grainBytes);
    const inGrain = offset - grain * grainBytes;
    const first = this.placeOf(grain);
    let covered = (grain + 1) * grainBytes;
    const isData = first > ZEROS;
    let place = first;
    for (let looks = 0; !(isData && isCompressed) && covered < end && looks < MAX_LOOKS; looks++) {
      grain++;
      const index = grain % tableEntries;
      if (first === UNALLOCATED && lookup.table((grain - index) / tableEntries) === 0) {
        grain += tableEntries - index - 1;
        covered = (grain + 1) * grainBytes;
        continue;
      }
      const next = this.placeOf(grain);
      if (next !== (isData ? place + grainBytes : place)) break;
      place = next;
      covered += grainBytes;
    }
    const length = Math.min(covered, end) - offset;
    if (!isData) return { status: first === ZEROS ? 'zero' : 'unallocated', length };
    if (isCompressed) return { status: 'compressed', length, hostOffset: hostOffset(first) };
    return { status: 'data', length, hostOffset: hostOffset(first + inGrain) };
  }

  private placeOf(grain: number): number {
    const { tableEntries } = this.lookup;
    const index = grain % tableEntries;
    const table = this.lookup.table((grain - index) / tableEntries);
    return table === 0 ? UNALLOCATED : this.lookup.place(table, index);
  }
}

/** Slices of the tables of `file` that this thread has read. */
export function ownSlices(file: HostFile, cacheBytes: number): TableSlices {
  const cache = new TableCache(createTableCacheState(cacheBytes, MAX_SLICE_BYTES));
  return new TableSlices(file, cache, Number.POSITIVE_INFINITY);
}
