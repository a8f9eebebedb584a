// What could grow with the image: its check, against qemu-img check, and its mount (reopen.mjs). Every cluster of the disk is
// allocated (big-images.mjs), the tables are in the page cache. One run of a program gives three rows: CPU time, time, and the most memory it had.

import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { canHold, fullQcow2, fullQed, scatter } from './big-images.mjs';
import { reopenRows } from './reopen.mjs';

const GIB = 2 ** 30;
const IMAGES = [
  { name: 'qcow2, 1 GiB', size: GIB, make: fullQcow2 },
  { name: 'qcow2, 64 GiB', size: 64 * GIB, make: fullQcow2 },
  { name: 'qcow2, 64 GiB, clusters in random order', size: 64 * GIB, make: fullScattered },
  { name: 'qcow2, 512 GiB', size: 512 * GIB, make: fullQcow2 },
  { name: 'qcow2, 4 TiB', size: 4096 * GIB, make: fullQcow2 },
  { name: 'qcow2, 16 TiB', size: 16384 * GIB, make: fullQcow2 },
  { name: 'QED, 512 GiB', size: 512 * GIB, make: fullQed },
  { name: 'QED, 16 TiB', size: 16384 * GIB, make: fullQed },
];
const FIGURES = [
  { row: 'CPU time', unit: 's', of: ({ cpuSeconds }) => cpuSeconds, target: { atMost: 1 } },
  { row: 'time', unit: 's', of: ({ seconds }) => seconds, target: { atMost: 1 } },
  { row: 'most memory', unit: 'MiB', of: ({ rssMiB }) => rssMiB },
];

export async function run(workshop, measurements) {
  if (spawnSync('qemu-img', ['--version']).status !== 0) {
    measurements.print('\nopen: the images are made with qemu-img, which is not installed');
    return;
  }
  for (const image of IMAGES) await checkRows(workshop, measurements, image);
  await reopenRows(workshop, measurements);
}

async function checkRows(workshop, measurements, { name, size, make }) {
  const rows = FIGURES.map((figure) => ({ ...figure, row: `check, ${name}: ${figure.row}` }));
  if (!rows.some(({ row }) => measurements.wants(row))) return;
  if (!canHold(workshop, size)) {
    measurements.print(`\nopen: no file here can be as long as that of ${name}`);
    return;
  }
  const image = workshop.path('full');
  make(image, size);
  const programs = [
    ...workshop.builds.map(({ name: build, cli }) => ({
      name: build,
      command: [process.execPath, cli, 'check', image],
    })),
    // for QED, QEMU calls the cluster at each multiple of 4 GiB a leak, which is exit code 3
    { name: 'qemu-img', command: ['sh', '-c', 'qemu-img check "$0" || test $? = 3', image] },
  ];
  /** of each program, the runs in order: the first row makes them, and the others look at the same ones */
  const runs = programs.map(() => []);
  for (const { row, unit, of, target } of rows) {
    if (!measurements.wants(row)) continue;
    const subjects = programs.map(({ name: program, command }, index) => {
      let next = 0;
      const sample = () => {
        if (next === runs[index].length) runs[index].push(workshop.timed(...command));
        return of(runs[index][next++]);
      };
      return { name: program, sample };
    });
    const goal = target === undefined ? {} : { target: { to: 'qemu-img', ...target } };
    await measurements.row({ section: 'check of a full image', row, unit, subjects, ...goal });
  }
  rmSync(image);
}

function fullScattered(path, size) {
  fullQcow2(path, size);
  scatter(path);
}
