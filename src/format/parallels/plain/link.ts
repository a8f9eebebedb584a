// Changes of entries of the BAT: clusters are linked, and links are taken away. Used under the metadata lock, while the header says
// that the image is in use.

import type { GuestCluster, HostOffset } from '../../../bytes/offsets.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { PlainNumbers } from './state.ts';
import type { Bat } from './table.ts';

export class Linker {
  private readonly bat: Bat;
  private readonly numbers: Pick<PlainNumbers, 'batEntries'>;
  private readonly tracker: WriteTracker;

  constructor(bat: Bat, numbers: Pick<PlainNumbers, 'batEntries'>, tracker: WriteTracker) {
    this.bat = bat;
    this.numbers = numbers;
    this.tracker = tracker;
  }

  /** Clusters from `cluster` on that one store can change: their entries share a slice of the BAT. */
  span(cluster: GuestCluster): number {
    return Math.min(this.bat.entriesInSlice(cluster), this.numbers.batEntries - cluster);
  }

  /** Links guest clusters to host clusters in a row. @returns how many; less than `count` at the end of a slice */
  link(cluster: GuestCluster, host: HostOffset, count: number): number {
    const part = Math.min(count, this.span(cluster));
    this.tracker.writeMetadata('l2-update', () => this.bat.link(cluster, host, part));
    return part;
  }

  /** Takes the links of `count` clusters away, whose entries lie in one slice. */
  unlink(cluster: GuestCluster, count: number): void {
    this.tracker.writeMetadata('l2-update', () => this.bat.clear(cluster, count));
  }
}
