// The plug of VHDX, the format of Hyper-V: fixed, dynamic and differencing images, read-only. What a crash has left in the log counts.

import type { AttachOptions, ImageFormat, SharedImage } from '../image-format.ts';
import { checkVhdx } from './check/check.ts';
import { FILE_SIGNATURE } from './header/file-identifier.ts';
import { VhdxImage, type VhdxState } from './image.ts';
import { detailsOf, openVhdx, readSoundLayout, sayLog } from './open.ts';

export const vhdx: ImageFormat<VhdxImage> = {
  name: 'vhdx',
  title: 'a VHDX image',
  magics: [{ at: 0, text: FILE_SIGNATURE }],
  can: { write: false, resize: false, backing: true, lazyRefcounts: false },
  open: openVhdx,
  attach: (file, shared: SharedImage, { backing }: AttachOptions) =>
    new VhdxImage(file, shared.state as VhdxState, backing),
  check: checkVhdx,
  inspect: (file, log = () => undefined) => {
    const layout = readSoundLayout(file);
    sayLog(file, layout, log);
    return detailsOf(layout);
  },
};
