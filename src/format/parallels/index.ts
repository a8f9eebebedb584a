// The plug of Parallels, read-only: images of one file, of both kinds, and disks of several files with their snapshots, which a
// DiskDescriptor.xml lists.

import type { HostFile } from '../../host/host-file.ts';
import { endsOf, type FileEnds } from '../file-ends.ts';
import type { ImageFormat } from '../image-format.ts';
import { PieceImage, type PieceState } from '../piece-image.ts';
import { DESCRIPTOR_MAGIC, describeDescriptor, ROOT, readDescriptor } from './descriptor.ts';
import { describeHeader, HEADER_MAGIC, HEADER_MAGIC2, readHeader } from './header.ts';
import { openDisk, openImage } from './open.ts';

export const parallels: ImageFormat<PieceImage> = {
  name: 'parallels',
  title: 'a Parallels image',
  magics: [HEADER_MAGIC, HEADER_MAGIC2, DESCRIPTOR_MAGIC].map((text) => ({ at: 0, text })),
  // not every XML document is one
  confirms: (ends) => !ends.has({ at: 0, text: DESCRIPTOR_MAGIC }) || headOf(ends).includes(`<${ROOT}`),
  directoryFile: 'DiskDescriptor.xml',
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: (file, options) => (isDescriptor(file) ? openDisk(file, options) : openImage(file, options)),
  attach: (file, shared, { extents }) => new PieceImage(file, shared.state as PieceState, extents),
  inspect: (file) => (isDescriptor(file) ? describeDescriptor(readDescriptor(file)) : describeHeader(readHeader(file))),
};

function isDescriptor(file: HostFile): boolean {
  return endsOf(file).has({ at: 0, text: DESCRIPTOR_MAGIC });
}

function headOf({ head }: FileEnds): string {
  return Buffer.from(head).toString('latin1');
}
