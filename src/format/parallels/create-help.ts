// What `imgfuse create -f parallels` can be told. Every help is listed without an engine, so this file imports none.

import type { CreateHelp } from '../create-option.ts';

export const PARALLELS_CREATE_HELP: CreateHelp = {
  options: [{ key: 'cluster_size', value: 'SIZE', text: 'whole sectors, up to 1G; default 1M' }],
  examples: [['disk.hds 10G', '']],
};
