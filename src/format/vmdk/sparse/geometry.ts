// The numbers that follow from grain size and table size, computed once. A guest offset is cut in three:
//
//   guest offset = ((directory index * tableEntries) + table index) * grainBytes + offset in the grain
//
// Grains may lie at any sector of the file. New ones are laid on a grid, `phase` + n * `grainBytes`, on which most grains of the
// extent lie already; only grains of the grid can be used again once they are freed.

import {
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  guestOffset,
  type HostCluster,
  type HostOffset,
  hostCluster,
  hostOffset,
  remainder,
} from '../../../bytes/offsets.ts';
import { ENTRY_BYTES } from './header.ts';

export class Geometry {
  readonly grainBytes: number;
  readonly tableEntries: number;
  readonly tableBytes: number;
  /** guest bytes that one grain table maps */
  readonly tableCoverage: number;
  readonly phase: number;

  constructor(sizes: { readonly grainBytes: number; readonly tableEntries: number }, phase: number) {
    this.grainBytes = sizes.grainBytes;
    this.tableEntries = sizes.tableEntries;
    this.tableBytes = sizes.tableEntries * ENTRY_BYTES;
    this.tableCoverage = sizes.tableEntries * sizes.grainBytes;
    this.phase = phase;
  }

  grainOf(offset: GuestOffset): GuestCluster {
    return guestCluster(Math.floor(offset / this.grainBytes));
  }

  startOf(grain: GuestCluster): GuestOffset {
    return guestOffset(grain * this.grainBytes);
  }

  /** Grains that `bytes` bytes of the disk take, the last one maybe in part. */
  grainsFor(bytes: number): number {
    return Math.ceil(bytes / this.grainBytes);
  }

  directoryIndexOf(grain: GuestCluster): number {
    return Math.floor(grain / this.tableEntries);
  }

  tableIndexOf(grain: GuestCluster): number {
    return remainder(grain, this.tableEntries);
  }

  firstGrainOf(directoryIndex: number): GuestCluster {
    return guestCluster(directoryIndex * this.tableEntries);
  }

  isOnGrid(host: HostOffset): boolean {
    return host >= this.phase && remainder(host - this.phase, this.grainBytes) === 0;
  }

  /** The place of the grid in which `host` lies. */
  placeOf(host: number): HostCluster {
    return hostCluster(Math.floor((host - this.phase) / this.grainBytes));
  }

  offsetOf(place: HostCluster): HostOffset {
    return hostOffset(this.phase + place * this.grainBytes);
  }

  /** The first offset of the grid at or behind `offset`. */
  nextOnGrid(offset: number): HostOffset {
    const places = Math.max(0, Math.ceil((offset - this.phase) / this.grainBytes));
    return hostOffset(this.phase + places * this.grainBytes);
  }
}

/** Counts on which grid the grains of an extent lie. */
export class GridVote {
  private readonly grainBytes: number;
  private readonly counts = new Map<number, number>();
  /** the phase of the last grains, and how many there were: mostly they are all */
  private phase = 0;
  private count = 0;

  constructor(grainBytes: number) {
    this.grainBytes = grainBytes;
  }

  add(host: number): void {
    const phase = remainder(host, this.grainBytes);
    if (phase !== this.phase) {
      this.store();
      this.phase = phase;
    }
    this.count++;
  }

  /** The phase of most grains; 0 if there are none. */
  winner(): number {
    this.store();
    let [phase, most] = [0, this.counts.get(0) ?? 0];
    for (const [candidate, count] of this.counts) if (count > most) [phase, most] = [candidate, count];
    return phase;
  }

  private store(): void {
    this.counts.set(this.phase, (this.counts.get(this.phase) ?? 0) + this.count);
    this.count = 0;
  }
}
