// Repair of blocks, and of bitmaps, that lie where another one lies: the second one gets its own copy at the end of the file, so that
// both keep what they read as, and the disk shows what it showed. The copy is durable before its entry, which is one aligned write
// inside a sector; the log is empty, so no replay can undo it. A crash leaves the old entry or the new one, and both read the same.

import { hostOffset, roundUp } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { copyBytes } from '../../mapped/space/copy-bytes.ts';
import { hasPlace, offsetOf, stateOf, writePlace } from '../bat.ts';
import { BITMAP_BYTES, ENTRY_BYTES, Geometry } from '../geometry.ts';
import { MIB } from '../header/fields.ts';
import { readHeaders } from '../header/header.ts';
import type { Layout } from '../header/layout.ts';
import { announceChange } from '../header/update.ts';
import type { Entry } from './table-walk.ts';

/** @param told what became of an entry, as the end of a sentence */
export function separateBlocks(
  file: HostFile,
  layout: Layout,
  shared: readonly Entry[],
  told: (entry: Entry, what: string) => void,
): void {
  const geometry = new Geometry(layout.disk);
  announceChange(file, readHeaders(file).current);
  let end = roundUp(file.size(), MIB);
  for (const entry of shared) {
    // a bitmap that is in its place has the state of a block that is fully present
    const isData = hasPlace(stateOf(entry.low));
    const to = isData ? end : 0;
    if (isData) {
      const length = geometry.isBitmapEntry(entry.index) ? BITMAP_BYTES : geometry.blockBytes;
      end += length;
      copyBlock(file, offsetOf(entry.low, entry.high), to, length);
    }
    const bytes = new Uint8Array(ENTRY_BYTES);
    writePlace(new DataView(bytes.buffer), entry.low, to);
    file.write(bytes, 0, ENTRY_BYTES, hostOffset(layout.regions.bat.start + entry.index * ENTRY_BYTES));
    file.sync();
    told(entry, isData ? `it has a copy at offset ${to} now` : 'it keeps no place any more');
  }
}

function copyBlock(file: HostFile, from: number, to: number, length: number): void {
  file.truncate(to + length);
  copyBytes(file, hostOffset(from), hostOffset(to), length);
  file.sync();
}
