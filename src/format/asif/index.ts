// The plug of ASIF: the sparse images of macOS 26, read-only. What marks them as not closed clean is not known, so an entry that
// is marked dirty is refused.

import type { HostFile } from '../../host/host-file.ts';
import type { ImageFormat, SharedImage } from '../image-format.ts';
import { PieceImage, type PieceState } from '../piece-image.ts';
import { describeHeader, HEADER_MAGIC, readHeader } from './header.ts';
import { openAsif } from './open.ts';

export const asif: ImageFormat<PieceImage> = {
  name: 'asif',
  title: 'an ASIF image (macOS)',
  magics: [{ at: 0, text: HEADER_MAGIC }],
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: openAsif,
  attach: (file: HostFile, shared: SharedImage) => new PieceImage(file, shared.state as PieceState),
  inspect: (file: HostFile) => describeHeader(readHeader(file)),
};
