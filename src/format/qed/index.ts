// QED, the plug: probe, open, attach, create, check.

import type { CheckedFormat, SharedImage } from '../image-format.ts';
import { createQed } from './create.ts';
import { QED_CREATE_HELP } from './create-help.ts';
import { qedImage } from './image.ts';
import { inspectQed, openQed } from './open.ts';
import { setQedBacking } from './set-backing.ts';
import type { QedState } from './state.ts';
import { checkQed } from './verify.ts';

export const qed: CheckedFormat = {
  name: 'qed',
  title: 'a QED image',
  usualName: /\.qed$/i,
  magics: [{ at: 0, text: 'QED\0' }],
  can: { write: true, resize: true, backing: true, lazyRefcounts: false },
  createHelp: QED_CREATE_HELP,
  open: (file, options) => openQed(file, options, false),
  attach: (file, shared: SharedImage, { backing, log, slot }) =>
    qedImage(file, shared.state as QedState, slot, backing, log),
  create: createQed,
  setBacking: setQedBacking,
  check: checkQed,
  inspect: inspectQed,
};
