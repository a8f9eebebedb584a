// Parallels images of one file, which are written: a view of the plug that shows these only, and images of the first kind, which create
// does not make.

import { hostOffset } from '../../src/bytes/offsets.ts';
import type { CheckedFormat } from '../../src/format/image-format.ts';
import { parallels } from '../../src/format/parallels/index.ts';
import { MemoryHostFile } from './memory-file.ts';
import { parallelsImage } from './piece-bytes.ts';

export const plainParallels = parallels as CheckedFormat;

/** An empty image of the first kind. */
export function oldParallels(size: number, clusterSectors = 63): MemoryHostFile {
  const pieces = new Array<number>(Math.ceil(size / clusterSectors / 512)).fill(0);
  const { image } = parallelsImage({ magic: 'WithoutFreeSpace', clusterSectors, pieces, sectors: size / 512 });
  return new MemoryHostFile(image);
}

/** The plug, but create makes images of the first kind, with clusters of 9 sectors. */
export const oldKindOfParallels: CheckedFormat = {
  ...plainParallels,
  create: (file, { size }) => {
    const bytes = oldParallels(size, 9).bytes();
    file.write(bytes, 0, bytes.length, hostOffset(0));
    file.sync();
  },
};

/** A write that sets the mark of an image in use. */
export function setsInUse(offset: number, data: Uint8Array): boolean {
  return offset === 0 && Buffer.from(data.subarray(44, 48)).toString('latin1') === 'Ynot';
}
