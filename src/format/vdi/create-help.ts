// What `imgfuse create -f vdi` can be told. Every help is listed without an engine, so this file imports none.

import type { CreateHelp } from '../create-option.ts';

export const VDI_CREATE_HELP: CreateHelp = {
  options: [
    { key: 'static', value: 'on|off', text: 'all blocks have their place from the start; default off' },
    { key: 'block_size', value: 'SIZE', text: 'a power of two from 4k to 256M; default 1M, the only one QEMU opens' },
  ],
  examples: [
    ['disk.vdi 10G', ''],
    ['-o static=on disk.vdi 10G', 'blocks in the order of the disk'],
    ['-b base.vdi -F vdi child.vdi', 'changes go to child.vdi'],
  ],
};
