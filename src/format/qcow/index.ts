// qcow, the plug: version 1 of the format, read and written. It has no dirty bit and stores no format of its backing file, and its
// disk keeps its size.

import type { AttachOptions, CheckedFormat, SharedImage } from '../image-format.ts';
import { createQcow } from './create.ts';
import { QCOW_CREATE_HELP } from './create-help.ts';
import { describeHeader, readHeader } from './header.ts';
import { qcowImage } from './image.ts';
import { openQcow } from './open.ts';
import { assertQcowBacking, setQcowBacking } from './set-backing.ts';
import type { QcowState } from './state.ts';
import { checkQcow } from './verify.ts';

export const qcow: CheckedFormat = {
  name: 'qcow',
  title: 'a qcow image of version 1',
  usualName: /\.qcow$/i,
  magics: [{ at: 0, text: 'QFI\xfb\0\0\0\x01' }],
  can: { write: true, resize: false, backing: true, lazyRefcounts: false },
  createHelp: QCOW_CREATE_HELP,
  open: openQcow,
  attach: (file, shared: SharedImage, options: AttachOptions) =>
    qcowImage(file, shared.state as QcowState, options.slot, options.backing, options.log),
  create: createQcow,
  setBacking: setQcowBacking,
  assertBacking: assertQcowBacking,
  check: checkQcow,
  inspect: (file) => describeHeader(readHeader(file)),
};
