// qcow2, the plug: probe, open, attach, create, check.

import type { HostFile } from '../../host/host-file.ts';
import type { AttachOptions, CheckedFormat, SharedImage } from '../image-format.ts';
import { checkQcow2 } from './check/verify.ts';
import type { Qcow2Files } from './collaborators.ts';
import { createQcow2 } from './create/create.ts';
import { QCOW2_CREATE_HELP } from './create/create-help.ts';
import { describeHeader, inspectHeader } from './header/describe.ts';
import { readHeader } from './header/read-header.ts';
import { setQcow2Backing } from './header/set-backing.ts';
import { qcow2Image } from './image.ts';
import { openQcow2 } from './open/open.ts';
import type { Qcow2State } from './state.ts';

export const qcow2: CheckedFormat = {
  name: 'qcow2',
  title: 'a qcow2 image',
  usualName: /\.qcow2$/i,
  magics: [{ at: 0, text: 'QFI\xfb' }],
  // version 1 has the same magic and is another format
  confirms: (ends) => !ends.has({ at: 4, text: '\0\0\0\x01' }),
  can: { write: true, resize: true, backing: true, lazyRefcounts: true },
  createHelp: QCOW2_CREATE_HELP,
  open: (file, options) => {
    const header = readHeader(file, { readOnly: options.readOnly });
    return openQcow2(file, header, describeHeader(file, header, options.log).specific, options);
  },
  attach: (file: HostFile, shared: SharedImage, options: AttachOptions) =>
    qcow2Image(filesOf(file, options), shared.state as Qcow2State, options.slot, options.log),
  create: createQcow2,
  setBacking: setQcow2Backing,
  check: checkQcow2,
  inspect: (file, log = () => undefined) => inspectHeader(file, readHeader(file, { readOnly: true }), log),
};

function filesOf(file: HostFile, { backing, extents }: AttachOptions): Qcow2Files {
  return { file, backing, dataFile: extents[0] ?? null };
}
