// The plug of sparseimages of macOS (UDSP), read-only. The format has no dirty bit and no backing file; an encrypted one begins as
// every encrypted image of macOS does, and is not of this format.

import type { HostFile } from '../../host/host-file.ts';
import type { ImageFormat, SharedImage } from '../image-format.ts';
import { PieceImage, type PieceState } from '../piece-image.ts';
import { describeHeader, readHeader } from './header.ts';
import { openSparseImage } from './open.ts';

export const sparseimage: ImageFormat<PieceImage> = {
  name: 'sparseimage',
  title: 'a sparseimage (macOS)',
  usualName: /\.sparseimage$/i,
  magics: [{ at: 0, text: 'sprs' }],
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: openSparseImage,
  attach: (file: HostFile, shared: SharedImage) => new PieceImage(file, shared.state as PieceState),
  inspect: (file: HostFile) => describeHeader(readHeader(file)),
};
