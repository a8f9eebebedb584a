// How many blocks of the disk have data in the image: what a read-only open, which checks nothing, shows as the size on disk. A table
// that takes long to read is not counted.

import { hostOffset } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { COUNTED_TABLE_BYTES } from '../../mapped/host-clusters.ts';
import { type DynamicHeader, ENTRY_BYTES } from '../header/header.ts';
import { UNUSED_ENTRY } from '../table.ts';

const CHUNK_BYTES = 64 * 1024;

/** @returns null if there are so many entries that counting would take a noticeable time */
export function countAllocated(file: HostFile, { blockSize, tableOffset }: DynamicHeader, size: number): number | null {
  const bytes = Math.ceil(size / blockSize) * ENTRY_BYTES;
  if (bytes > COUNTED_TABLE_BYTES) return null;
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
  const view = new DataView(chunk.buffer);
  let count = 0;
  for (let done = 0; done < bytes; done += chunk.length) {
    const got = file.read(chunk, 0, Math.min(chunk.length, bytes - done), hostOffset(tableOffset + done));
    for (let at = 0; at + ENTRY_BYTES <= got; at += ENTRY_BYTES)
      if (view.getUint32(at, false) !== UNUSED_ENTRY) count++;
  }
  return count;
}
