// The plug of ASIF: the sparse images of macOS 26, read-only.

import type { HostFile } from '../../host/host-file.ts';
import type { ImageFormat, SharedImage } from '../image-format.ts';
import { describeHeader, readHeader } from './header.ts';
import { AsifImage, type AsifState } from './image.ts';
import { openAsif } from './open.ts';

export const asif: ImageFormat<AsifImage> = {
  name: 'asif',
  title: 'an ASIF image (macOS)',
  usualName: /\.asif$/i,
  magics: [{ at: 0, text: 'shdw' }],
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: openAsif,
  attach: (file: HostFile, shared: SharedImage) => new AsifImage(file, shared.state as AsifState),
  inspect: (file: HostFile) => describeHeader(readHeader(file)),
};
