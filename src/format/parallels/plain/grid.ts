// Where the clusters of an image of one file lie. An old header may say nothing, and programs did not agree on what that means; then
// the first entries of the BAT tell, by their majority, because one of them may be damaged.

import { hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { HEADER_BYTES, type ParallelsHeader } from '../header.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';

const CHUNK_BYTES = 64 * 1024;
/** Entries that are asked where the grid is. */
const ASKED_ENTRIES = 1024;

export interface Grid {
  readonly geometry: Geometry;
  readonly phase: number;
  /** host offset of the first place of a cluster */
  readonly dataStart: number;
}

export function gridOf(file: HostFile, header: ParallelsHeader): Grid {
  const { batEntries, clusterBytes, data, isExtended, unitBytes } = header;
  const batEnd = HEADER_BYTES + batEntries * ENTRY_BYTES;
  const phase = isExtended ? 0 : data === null ? oldPhase(file, header, batEnd) : data % clusterBytes;
  const geometry = new Geometry(clusterBytes, unitBytes, phase);
  return { geometry, phase, dataStart: geometry.hostStartOf(geometry.hostClusterFrom(Math.max(batEnd, data ?? 0))) };
}

/** The phase of most of the first entries that lead into the file; without any, clusters follow the BAT. */
function oldPhase(file: HostFile, { batEntries, clusterBytes, unitBytes }: ParallelsHeader, batEnd: number): number {
  const counts = new Map([[roundUp(batEnd, SECTOR_BYTES) % clusterBytes, 0]]);
  const size = file.size();
  const bytes = batEntries * ENTRY_BYTES;
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
  const words = new DataView(chunk.buffer);
  let seen = 0;
  for (let start = 0; start < bytes && seen < ASKED_ENTRIES; start += chunk.length) {
    const part = Math.min(chunk.length, bytes - start);
    const got = file.read(chunk, 0, part, hostOffset(HEADER_BYTES + start));
    for (let at = 0; at + ENTRY_BYTES <= got && seen < ASKED_ENTRIES; at += ENTRY_BYTES) {
      const place = words.getUint32(at, true) * unitBytes;
      if (place < batEnd || place >= size) continue;
      const phase = place % clusterBytes;
      counts.set(phase, (counts.get(phase) ?? 0) + 1);
      seen++;
    }
  }
  return [...counts].reduce((most, each) => (each[1] > most[1] ? each : most))[0];
}
