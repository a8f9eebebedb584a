// Where the clusters in use end, of an image whose file is made longer by zeros first: a new cluster lies where the file reads as
// zeros, durably. Those of sparse VMDK extents and VHD; behind the room of a VHD stands its footer.

import { SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { assert, ERRNO, ImgfuseError } from '../../../errors/index.ts';
import { FIRST_AFTER_FILE_END, FileEnd } from './file-end.ts';

const ROOM_END = FIRST_AFTER_FILE_END;
/** Entries are numbers of sectors with 32 bits. */
export const MAX_FILE_BYTES = 2 ** 32 * SECTOR_BYTES;

/** Of a file that would need entries of more bits; as if the host let it grow no further. */
export function tooLong(path: string): ImgfuseError {
  const message = `${path} cannot grow beyond 2 TiB: its entries are numbers of sectors with 32 bits`;
  return new ImgfuseError('limit', message, { path, errno: ERRNO.EFBIG });
}

/** The place of the first number that is the format's own. */
export const FIRST_AFTER_ROOM_END = FIRST_AFTER_FILE_END + 1;

export class RoomEnd extends FileEnd {
  /** From `fileEnd` up to here the file reads as zeros, durably; 0 before it was made longer. */
  get roomEnd(): number {
    return this.numbers.get(ROOM_END);
  }

  override advanceFileEnd(end: number): void {
    assert(end <= this.roomEnd, 'clusters are appended where there is room');
    super.advanceFileEnd(end);
  }

  /** The file has so many bytes now, durably, and reads as zeros between `fileEnd` and `roomEnd`. */
  override noteExtended(length: number, roomEnd = length): void {
    super.noteExtended(length);
    this.numbers.set(ROOM_END, roomEnd);
  }

  /** The file was cut; nobody appends to it before it is made longer. */
  override noteCut(length: number): void {
    super.noteCut(length);
    this.numbers.set(ROOM_END, 0);
  }
}
