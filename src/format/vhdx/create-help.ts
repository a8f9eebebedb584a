// What `imgfuse create -f vhdx` can be told. Every help is listed without an engine, so this file imports none.

import type { CreateHelp } from '../create-option.ts';

export const VHDX_CREATE_HELP: CreateHelp = {
  options: [
    { key: 'log_size', value: 'SIZE', text: 'whole MiB, 1 GiB at most; default 1M' },
    {
      key: 'block_size',
      value: 'SIZE',
      text: 'a power of two from 1M to 256M; default by the size of the disk: 8M to 64M',
    },
    {
      key: 'subformat',
      value: 'dynamic|fixed',
      text: 'whether blocks get their place when they are written to; default dynamic',
    },
    {
      key: 'block_state_zero',
      value: 'on|off',
      text: 'blocks of a dynamic disk say that they are zeros, as qemu-img makes them; default off: they are not there',
    },
  ],
  examples: [
    ['disk.vhdx 100G', ''],
    ['-o subformat=fixed disk.vhdx 10G', 'blocks in the order of the disk'],
    ['-b base.vhdx -F vhdx child.vhdx', 'changes go to child.vhdx'],
  ],
};
