// The plug of cloop: compressed loop images of version 2, read-only. create_compressed_fs of Debian's cloop-utils writes them.

import type { HostFile } from '../../host/host-file.ts';
import type { ImageFormat, SharedImage } from '../image-format.ts';
import { type CloopHeader, readHeader } from './header.ts';
import { CloopImage, checkCloop, describeHeader, openCloop } from './image.ts';
import { ANY_VERSION, SCRIPT_START } from './signature.ts';

export const cloop: ImageFormat<CloopImage> = {
  name: 'cloop',
  title: 'a cloop image',
  magics: [{ at: 0, text: SCRIPT_START }],
  // other versions are refused by name
  confirms: ({ head }) => ANY_VERSION.test(Buffer.from(head).toString('latin1')),
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: openCloop,
  attach: (file: HostFile, shared: SharedImage) => new CloopImage(file, shared.state as CloopHeader),
  check: checkCloop,
  inspect: (file: HostFile) => describeHeader(readHeader(file)),
};
