// Writes to an empty image of 16 GiB: every one of them allocates. Each measurement has a new image and a new mount.

import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { fio, fioSubjects } from './fio.mjs';

const ROWS = [
  { row: 'sequential 1M', unit: 'MiB/s', args: ['--rw=write', '--bs=1M', '--size=4g'] },
  { row: 'random 64k', unit: 'IOPS', args: ['--rw=randwrite', '--bs=64k', '--size=16g'] },
  { row: 'random 4k', unit: 'IOPS', args: ['--rw=randwrite', '--bs=4k', '--size=16g'] },
  { row: 'random 4k, depth 16', unit: 'IOPS', args: ['--rw=randwrite', '--bs=4k', '--iodepth=16', '--size=16g'] },
  { row: 'random 4k, flush every 32', unit: 'IOPS', args: ['--rw=randwrite', '--bs=4k', '--fsync=32', '--size=16g'] },
];

export async function run(workshop, measurements) {
  for (const format of ['qed', 'qcow2']) {
    for (const { row, unit, args } of ROWS) {
      await measurements.row({
        section: `${format}, 16 GiB, empty: every write allocates`,
        row,
        unit,
        subjects: fioSubjects(workshop).map((subject) => ({
          name: subject.name,
          sample: () => sample(workshop, subject, format, (file) => fio(file, args, unit, measurements.seconds)),
        })),
      });
    }
  }
}

async function sample(workshop, subject, format, measure) {
  const image = workshop.path(`empty.${format}`);
  workshop.imgfuse('create', '-f', format, image, '16G');
  // what the one before has written and deleted is on the disk, and the disk has rested
  execFileSync('sync');
  await new Promise((resolve) => setTimeout(resolve, 500));
  const mount = await subject.mount(image, workshop.path('empty'), format);
  const figure = measure(mount.file);
  await mount.unmount();
  rmSync(image);
  return figure;
}
