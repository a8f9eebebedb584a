// The plug of VHDX, the format of Hyper-V: probe, open, attach, create, check. Fixed, dynamic and differencing images are read and
// written. What a crash has left in the log counts.

import type { AttachOptions, CheckedFormat, SharedImage } from '../image-format.ts';
import { checkVhdx } from './check/check.ts';
import { createVhdx } from './create.ts';
import { VHDX_CREATE_HELP } from './create-help.ts';
import { vhdxImage } from './image.ts';
import { detailsOf, openVhdx, readSoundLayout, sayLog } from './open.ts';
import { assertVhdxBacking, setVhdxBacking } from './set-backing.ts';
import { FILE_SIGNATURE } from './signature.ts';
import type { VhdxState } from './state.ts';

export const vhdx: CheckedFormat = {
  name: 'vhdx',
  title: 'a VHDX image',
  usualName: /\.a?vhdx$/i,
  magics: [{ at: 0, text: FILE_SIGNATURE }],
  can: { write: true, resize: true, backing: true, lazyRefcounts: false },
  createHelp: VHDX_CREATE_HELP,
  open: openVhdx,
  attach: (file, shared: SharedImage, { backing, log, slot }: AttachOptions) =>
    vhdxImage(file, shared.state as VhdxState, slot, backing, log),
  create: createVhdx,
  setBacking: setVhdxBacking,
  backingFormats: ['vhdx'],
  assertBacking: assertVhdxBacking,
  check: checkVhdx,
  inspect: (file, log = () => undefined) => {
    const layout = readSoundLayout(file);
    sayLog(file, layout, log);
    return detailsOf(layout);
  },
};
