// Reading tables in pieces, outside the cache: for what looks at all of them.

import { hostOffset, roundDown } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import { ENTRY_BYTES } from './geometry.ts';

const CHUNK_BYTES = 64 * 1024;

/**
 * Visits the entries that are not 0, in order, as two words. Holes of the file are passed over, so that a sparse image with tables
 * of gigabytes costs no more time than it has data. A visit must change nothing that it has not been shown yet.
 */
export function forEachEntry(
  file: HostFile,
  table: number,
  tableBytes: number,
  visit: (index: number, high: number, low: number) => void,
): void {
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, tableBytes));
  const words = new DataView(chunk.buffer);
  for (let start = 0; start < tableBytes; start += chunk.length) {
    const data = file.seekData(hostOffset(table + start)) - table;
    if (data >= tableBytes) return;
    start = Math.max(start, roundDown(data, chunk.length));
    const got = file.read(chunk, 0, Math.min(chunk.length, tableBytes - start), hostOffset(table + start));
    for (let at = 0; at + ENTRY_BYTES <= got; at += ENTRY_BYTES) {
      const high = words.getUint32(at, false);
      const low = words.getUint32(at + 4, false);
      if (high !== 0 || low !== 0) visit((start + at) / ENTRY_BYTES, high, low);
    }
  }
}
