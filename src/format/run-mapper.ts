// What the mappers of the formats have in common: they map a guest range to its first run, and how far they look in one
// hold of the metadata lock. A run of data ends where its host clusters do not adjoin.

/** Maps a guest range to its first run; the mapper may reuse one object for all its answers. */
export interface RunMapper<Run> {
  map(offset: number, length: number): Run;
}

/** Entries that one call looks at under the lock; a longer run is cut, and the caller goes on from there. */
export const MAX_LOOKS = 65536;
