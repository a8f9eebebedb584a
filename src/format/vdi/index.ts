// VDI, the plug: VirtualBox's format. Dynamic, static and differencing images of version 1.1 are read and written; those of
// version 0 are read.

import type { HostFile } from '../../host/host-file.ts';
import type { CheckedFormat } from '../image-format.ts';
import { checkVdi } from './check/check.ts';
import { createVdi } from './create.ts';
import { VDI_CREATE_HELP } from './create-help.ts';
import { describeHeader, readHeader, virtualSizeOf } from './header.ts';
import { vdiImage } from './image.ts';
import { openVdi, sayWhatIsCut } from './open.ts';
import { assertVdiBacking, setVdiBacking } from './set-backing.ts';
import type { VdiState } from './state.ts';

export const vdi: CheckedFormat = {
  name: 'vdi',
  title: 'a VDI image (VirtualBox)',
  usualName: /\.vdi$/i,
  magics: [{ at: 64, text: '\x7f\x10\xda\xbe' }],
  can: { write: true, resize: true, backing: true, lazyRefcounts: false },
  createHelp: VDI_CREATE_HELP,
  open: openVdi,
  attach: (file, { state }, options) => vdiImage(file, state as VdiState, options.slot, options.backing, options.log),
  create: createVdi,
  setBacking: setVdiBacking,
  assertBacking: assertVdiBacking,
  check: checkVdi,
  inspect: (file: HostFile, log = () => undefined) => {
    const header = readHeader(file);
    sayWhatIsCut(file, header, log);
    return describeHeader(header, virtualSizeOf(header));
  },
};
