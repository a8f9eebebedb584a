// The plug of Bochs: growing images, read-only. Bochs and bximage write them. The format has no dirty bit and no backing file.

import type { HostFile } from '../../host/host-file.ts';
import type { ImageFormat, SharedImage } from '../image-format.ts';
import { readHeader } from './header.ts';
import { BochsImage, type BochsState, describeHeader, openBochs } from './image.ts';
import { HEADER_MAGIC } from './signature.ts';

export const bochs: ImageFormat<BochsImage> = {
  name: 'bochs',
  title: 'a Bochs image',
  magics: [{ at: 0, text: HEADER_MAGIC }],
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: openBochs,
  attach: (file: HostFile, shared: SharedImage) => new BochsImage(file, shared.state as BochsState),
  inspect: (file: HostFile) => describeHeader(readHeader(file)),
};
