// The plug of dmg: disk images of macOS (UDIF) with a trailer, read-only. A read-write one (UDRW) has none: it is a raw disk.

import type { HostFile } from '../../host/host-file.ts';
import type { ImageFormat, SharedImage } from '../image-format.ts';
import { checkDmg } from './check.ts';
import { DmgImage, type DmgState, describeDisk, openDmg } from './image.ts';
import { MAGICS } from './signature.ts';
import { readTrailer } from './trailer.ts';

export const dmg: ImageFormat<DmgImage> = {
  name: 'dmg',
  title: 'a dmg image',
  magics: MAGICS,
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: openDmg,
  attach: (file: HostFile, shared: SharedImage) => new DmgImage(file, shared.state as DmgState),
  check: checkDmg,
  inspect: (file: HostFile) => describeDisk(readTrailer(file)),
};
