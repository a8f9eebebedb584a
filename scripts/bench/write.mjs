// Writes in place: an image of 1 GiB, all of it allocated, one for each subject. Beside raw images there are loops in C that do the
// least that a write takes (floor.c).

import { rmSync } from 'node:fs';
import { compileLoop, mountLoop } from './c-loop.mjs';
import { allocatedRows, FORMATS, fill, fioSubjects } from './fio.mjs';

const ROWS = [
  { row: 'random write 4k, depth 1', unit: 'IOPS', args: ['--rw=randwrite', '--bs=4k'] },
  { row: 'random write 4k, depth 16', unit: 'IOPS', args: ['--rw=randwrite', '--bs=4k', '--iodepth=16'] },
  { row: 'sequential write 1M', unit: 'MiB/s', args: ['--rw=write', '--bs=1M'] },
];

export async function run(workshop, measurements) {
  if (!ROWS.some(({ row }) => measurements.wants(row))) return;
  for (const format of FORMATS.filter((each) => workshop.wants(each))) {
    const subjects = [...fioSubjects(workshop), ...(format === 'raw' ? loops(workshop) : [])];
    const images = subjects.map((_, index) => workshop.path(`write-${index}.${format}`));
    const mounts = [];
    for (const [index, subject] of subjects.entries()) {
      const image = images[index];
      workshop.imgfuse('create', '-f', format, image, '1G');
      mounts.push(await subject.mount(image, workshop.path(`write-${index}`), format));
      fill(mounts[index].file, '1g');
    }
    await allocatedRows(measurements, format, ROWS, subjects, mounts);
    for (const mount of mounts) await mount.unmount();
    // those of all formats at once do not fit into the memory of a small machine
    for (const image of images) rmSync(image);
  }
}

function loops(workshop) {
  if (!workshop.hasCompiler) return [];
  const program = compileLoop(workshop);
  return [undefined, 'poll', 'splice'].map((manner) => ({
    name: `C${manner ? `, ${manner}` : ''}`,
    mount: (image) => mountLoop(workshop, program, image, 1, manner),
  }));
}
