// What `imgfuse create -f qcow` can be told. Every help is listed without an engine, so this file imports none.

import type { CreateHelp } from '../create-option.ts';

export const QCOW_CREATE_HELP: CreateHelp = {
  options: [
    { key: 'backing_file', value: 'NAME', text: 'the same as -b' },
    { key: 'backing_fmt', value: 'FORMAT', text: 'the same as -F; the image does not store it' },
    { key: 'encrypt.format', value: 'aes', text: 'encrypts the disk with AES-128, which is weak; see --key-file' },
  ],
  examples: [
    ['disk.qcow 10G', ''],
    ['-b base.qcow -F qcow overlay.qcow', 'changes go to overlay.qcow'],
  ],
};
