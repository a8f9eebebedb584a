// What `imgfuse create -f vpc` can be told. Every help is listed without an engine, so this file imports none.

import type { CreateHelp } from '../create-option.ts';

export const VPC_CREATE_HELP: CreateHelp = {
  options: [
    {
      key: 'subformat',
      value: 'dynamic|fixed',
      text: 'blocks are added as they are written, or all of the disk is there; default dynamic',
    },
    {
      key: 'force_size',
      value: 'on|off',
      text: 'the disk has exactly the size given; off: as large as its cylinders, which is a little more; default on',
    },
    { key: 'block_size', value: 'SIZE', text: 'a power of two from 4k to 256M; default 2M, which every program takes' },
  ],
  examples: [
    ['disk.vhd 10G', ''],
    ['-o subformat=fixed disk.vhd 10G', 'for Azure, which wants whole MiB'],
    ['-b base.vhd -F vpc child.vhd', 'changes go to child.vhd'],
  ],
};
