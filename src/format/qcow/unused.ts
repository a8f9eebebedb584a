// Host clusters that nothing refers to. Those that read as zeros take no space, as a rule, and are as good as new; those with other
// bytes are leaks.

import { hostOffset } from '../../bytes/offsets.ts';
import type { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import type { HostFile } from '../../host/host-file.ts';

const CHUNK_BYTES = 256 * 1024;

/** Visits them in order, in runs that are zeros or are not. @param end of the clusters that are looked at */
export function forEachUnused(
  file: HostFile,
  used: SparseBitmap,
  clusterSize: number,
  end: number,
  visit: (start: number, count: number, isZero: boolean) => void,
): void {
  const chunk = new Uint8Array(Math.max(CHUNK_BYTES, clusterSize));
  const perChunk = chunk.length / clusterSize;
  for (const gap of used.gaps(end)) {
    for (let start = gap.start; start < gap.end; ) {
      const data = Math.floor(file.seekData(hostOffset(start * clusterSize)) / clusterSize);
      if (data > start) {
        const holes = Math.min(data, gap.end) - start;
        visit(start, holes, true);
        start += holes;
        continue;
      }
      const count = Math.min(perChunk, gap.end - start);
      const got = file.read(chunk, 0, count * clusterSize, hostOffset(start * clusterSize));
      chunk.fill(0, got, count * clusterSize);
      visitChunk(chunk, clusterSize, count, (first, length, isZero) => visit(start + first, length, isZero));
      start += count;
    }
  }
}

function visitChunk(
  chunk: Uint8Array,
  clusterSize: number,
  count: number,
  visit: (first: number, count: number, isZero: boolean) => void,
): void {
  const isZero = (cluster: number): boolean =>
    chunk.subarray(cluster * clusterSize, (cluster + 1) * clusterSize).every((byte) => byte === 0);
  for (let first = 0; first < count; ) {
    const zero = isZero(first);
    let next = first + 1;
    while (next < count && isZero(next) === zero) next++;
    visit(first, next - first, zero);
    first = next;
  }
}

/** Clusters of the file that hold bytes and belong to nobody. */
export function countLeaks(file: HostFile, used: SparseBitmap, clusterSize: number): number {
  let leaks = 0;
  forEachUnused(file, used, clusterSize, Math.ceil(file.size() / clusterSize), (_, count, isZero) => {
    if (!isZero) leaks += count;
  });
  return leaks;
}
