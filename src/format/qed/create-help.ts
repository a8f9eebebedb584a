// What `imgfuse create -f qed` can be told. Every help is listed without an engine, so this file imports none.

import type { CreateHelp } from '../create-option.ts';

export const QED_CREATE_HELP: CreateHelp = {
  options: [
    { key: 'cluster_size', value: 'SIZE', text: 'a power of two from 4k to 64M; default 64k' },
    { key: 'table_size', value: 'N', text: 'clusters of each L1 and L2 table, a power of two from 1 to 16; default 4' },
  ],
  examples: [
    ['disk.qed 10G', ''],
    ['-o cluster_size=64k,table_size=4 disk.qed 10G', ''],
    ['-b base.qed -F qed overlay.qed', 'changes go to overlay.qed'],
  ],
};
