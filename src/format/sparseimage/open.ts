// Opening a sparseimage: the lists of bands become one table. Each list is read once, so that a chain of nodes ends.

import { hex } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { OpenOptions } from '../image-format.ts';
import { PieceImage, PieceTable } from '../piece-image.ts';
import { describeHeader, invalid, readBandList, readHeader } from './header.ts';

/** @throws ImgfuseError corrupt, unsupported, limit */
export function openSparseImage(file: HostFile, { log }: OpenOptions): PieceImage {
  const header = readHeader(file);
  const { bandBytes, diskBytes } = header;
  const table = new PieceTable(file.path, diskBytes, bandBytes);
  const seen = new Set<number>();
  for (let at = 0, isFirst = true; isFirst || at !== 0; isFirst = false) {
    if (seen.has(at)) throw invalid(file, at, 'its index nodes lead back to this one');
    seen.add(at);
    const { bandsAt, next, numbers } = readBandList(file, at);
    for (const [place, number] of numbers.entries()) {
      if (number === 0) continue;
      const where = `the list at ${hex(at)} has band ${number} at place ${place}`;
      if (number > table.count) throw invalid(file, at, `${where}, and the disk has ${table.count} bands`);
      if (table.has(number - 1)) throw invalid(file, at, `${where}, which is in the file twice`);
      table.set(number - 1, bandsAt + place * bandBytes);
    }
    at = next;
  }
  table.sayWhatIsCut([file], log);
  return new PieceImage(file, table.state(describeHeader(header), 'band'));
}
