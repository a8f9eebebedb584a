// How many blocks of the disk have data in the image: what a read-only open, which checks nothing, shows as the size on disk.

import { hostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import { COUNTED_TABLE_BYTES } from '../mapped/host-clusters.ts';
import { ENTRY_BYTES } from './geometry.ts';
import { geometryOf, VDI_IMAGE_BLOCK_ZERO, type VdiHeader, virtualSizeOf } from './header.ts';

const CHUNK_BYTES = 64 * 1024;

/** @returns null if the map is so large that counting would take a noticeable time */
export function countAllocated(file: HostFile, header: VdiHeader): number | null {
  const mapBytes = geometryOf(header).clustersFor(virtualSizeOf(header)) * ENTRY_BYTES;
  if (mapBytes > COUNTED_TABLE_BYTES) return null;
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, mapBytes));
  const words = new DataView(chunk.buffer);
  let count = 0;
  for (let start = 0; start < mapBytes; start += chunk.length) {
    const part = Math.min(chunk.length, mapBytes - start);
    const got = file.read(chunk, 0, part, hostOffset(header.mapOffset + start));
    for (let at = 0; at + ENTRY_BYTES <= got; at += ENTRY_BYTES) {
      if (words.getUint32(at, true) < VDI_IMAGE_BLOCK_ZERO) count++;
    }
  }
  return count;
}
