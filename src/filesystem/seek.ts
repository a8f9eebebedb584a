// lseek(2) of the files of the tree, which show disks of any kind. SEEK_DATA and SEEK_HOLE only: the kernel does the rest by itself.

import { SEEK_DATA, SEEK_HOLE } from '../bytes/linux.ts';
import { ERRNO } from '../errors/index.ts';
import { failure } from './failure.ts';

interface SoughtFile {
  /** as the user sees it */
  readonly name: string;
  size(): number;
  /** @returns the first offset from `offset` on that has data, or has none; the size or more if there is no such offset */
  find(offset: number, wantsData: boolean): number;
}

/** @throws ImgfuseError EINVAL for another whence, ENXIO beyond the end and where no data follows */
export function seekIn(file: SoughtFile, offset: number, whence: number): number {
  const size = file.size();
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw failure(ERRNO.EINVAL, `lseek with whence ${whence}`);
  if (offset >= size) throw failure(ERRNO.ENXIO, `offset ${offset} lies beyond the end of ${file.name}`);
  const found = file.find(offset, whence === SEEK_DATA);
  if (found < size || whence === SEEK_HOLE) return Math.min(found, size);
  throw failure(ERRNO.ENXIO, `there is no data after offset ${offset}`);
}
