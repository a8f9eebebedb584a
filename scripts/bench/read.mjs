// Reads of an image of 1 GiB, all of it allocated. The subjects have the same file mounted at the same time, because the page
// cache of another file may lie in smaller or larger pieces.

import { rmSync } from 'node:fs';
import { allocatedRows, FORMATS, fill, fioSubjects } from './fio.mjs';

const ROWS = [
  { row: 'sequential read 1M', unit: 'MiB/s', args: ['--rw=read', '--bs=1M'] },
  { row: 'read 128k, depth 8', unit: 'MiB/s', args: ['--rw=read', '--bs=128k', '--iodepth=8'] },
  { row: 'random read 4k, depth 1', unit: 'IOPS', args: ['--rw=randread', '--bs=4k'] },
  { row: 'random read 4k, depth 16', unit: 'IOPS', args: ['--rw=randread', '--bs=4k', '--iodepth=16'] },
  {
    row: 'random read 4k, 4 jobs',
    unit: 'IOPS',
    args: ['--rw=randread', '--bs=4k', '--numjobs=4', '--group_reporting'],
  },
];

export async function run(workshop, measurements) {
  if (!ROWS.some(({ row }) => measurements.wants(row))) return;
  for (const format of FORMATS.filter((each) => workshop.wants(each))) await runFormat(workshop, measurements, format);
}

async function runFormat(workshop, measurements, format) {
  const image = workshop.path(`read.${format}`);
  workshop.imgfuse('create', '-f', format, image, '1G');
  const subjects = fioSubjects(workshop);
  const filled = await subjects[0].mount(image, workshop.path('fill'), format);
  fill(filled.file, '1g');
  await filled.unmount();
  const mounts = [];
  for (const [index, subject] of subjects.entries()) {
    mounts.push(await subject.mount(image, workshop.path(`read-${index}`), format, { sharing: true }));
  }
  await allocatedRows(measurements, format, ROWS, subjects, mounts);
  for (const mount of mounts) await mount.unmount();
  rmSync(image);
}
