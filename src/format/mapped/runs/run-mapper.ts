// Runs, the answers of the mappers: a piece of a guest range with one status. Each variant has the fields that mean something
// for it. A mapper may reuse one object for each variant, so a run is void once its mapper is asked again.

import type { GuestOffset, HostOffset } from '../../../bytes/offsets.ts';

/** Data in adjoining host clusters. */
export interface DataRun {
  readonly status: 'data';
  /** of the first byte */
  readonly hostOffset: HostOffset;
  readonly length: number;
}

/** Reads as zeros, whatever the backing file has there. */
export interface ZeroRun {
  readonly status: 'zero';
  readonly length: number;
}

/** Nothing: the backing file shows through. */
export interface UnallocatedRun {
  readonly status: 'unallocated';
  readonly length: number;
}

/** What every run says. */
export interface AnyRun {
  readonly status: string;
  /** bytes */
  readonly length: number;
}

/** Maps a guest range to its first run. */
export interface RunMapper<Run> {
  map(offset: GuestOffset, length: number): Run;
}

/** Entries that one call looks at under the lock; a longer run is cut, and the caller goes on from there. */
export const MAX_LOOKS = 16384;
