// Opening a Parallels image to read: its BAT becomes a table of places. One that was not closed clean is read as it is.

import { hostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { OpenOptions } from '../image-format.ts';
import { PieceImage, PieceTable } from '../piece-image.ts';
import { describeHeader, HEADER_BYTES, readHeader } from './header.ts';

const ENTRY_BYTES = 4;
const CHUNK_BYTES = 64 * 1024;

/** @throws ImgfuseError corrupt, unsupported, limit */
export function openParallels(file: HostFile, { log }: Pick<OpenOptions, 'log'>): PieceImage {
  const header = readHeader(file);
  const table = new PieceTable(file.path, header.diskBytes, header.clusterBytes);
  const { clusterBytes, dataOffset, unitBytes } = header;
  forEachEntry(file, table.count, (index, entry) => {
    const place = entry * unitBytes;
    if (place >= dataOffset && place + clusterBytes <= Number.MAX_SAFE_INTEGER) table.set(index, place);
    else table.setBad(index, HEADER_BYTES + index * ENTRY_BYTES);
  });
  if (header.isInUse) {
    log(`${file.path} was not closed clean, or another program has it open for writing; it is read as it is`);
  }
  if (/\.hds$/i.test(file.path)) {
    log(
      `${file.path} is one file of a disk: if the DiskDescriptor.xml beside it lists other files, or snapshots, this one shows a part ` +
        'of the disk, and zeros in place of the rest; merge them with the programs of Parallels first',
    );
  }
  return new PieceImage(file, table.state(describeHeader(header), 'cluster'));
}

/** Visits the entries that are not 0, in order. */
function forEachEntry(file: HostFile, count: number, visit: (index: number, entry: number) => void): void {
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, count * ENTRY_BYTES));
  const words = new DataView(chunk.buffer);
  for (let start = 0; start < count; start += chunk.length / ENTRY_BYTES) {
    const part = Math.min(chunk.length, (count - start) * ENTRY_BYTES);
    const got = file.read(chunk, 0, part, hostOffset(HEADER_BYTES + start * ENTRY_BYTES));
    for (let at = 0; at + ENTRY_BYTES <= got; at += ENTRY_BYTES) {
      const entry = words.getUint32(at, true);
      if (entry !== 0) visit(start + at / ENTRY_BYTES, entry);
    }
  }
}
