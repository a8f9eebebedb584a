// The plug of Parallels: images of one file, of both kinds, read-only. Its parent, if there is one, is named by a descriptor beside it
// (DiskDescriptor.xml), and not by the image.

import type { HostFile } from '../../host/host-file.ts';
import type { ImageFormat, SharedImage } from '../image-format.ts';
import { PieceImage, type PieceState } from '../piece-image.ts';
import { describeHeader, HEADER_MAGIC, HEADER_MAGIC2, readHeader } from './header.ts';
import { openParallels } from './open.ts';

export const parallels: ImageFormat<PieceImage> = {
  name: 'parallels',
  title: 'a Parallels image',
  magics: [
    { at: 0, text: HEADER_MAGIC },
    { at: 0, text: HEADER_MAGIC2 },
  ],
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: openParallels,
  attach: (file: HostFile, shared: SharedImage) => new PieceImage(file, shared.state as PieceState),
  inspect: (file: HostFile) => describeHeader(readHeader(file)),
};
