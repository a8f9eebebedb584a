// The rows of alloc.mjs on a mount that has done nothing else for two seconds, when V8 has compiled what they need. The image is so
// large that nearly every write still allocates.

import { emptyRows } from './alloc.mjs';

export async function run(workshop, measurements) {
  const formats = ['qed', 'qcow2', 'vdi', 'vpc', 'vmdk', 'vhdx', 'parallels'];
  for (const format of formats.filter((each) => workshop.wants(each))) {
    await emptyRows(workshop, measurements, format, '64G', ['--ramp_time=2s'], ', warm');
  }
}
