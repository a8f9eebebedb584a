// Writes that allocate: to an empty image of 16 GiB, and to one of 1 GiB over a backing file that is full of data. Each measurement
// has a new image and a new mount. Over a backing file the amount is fixed, so that no cluster is written a second time.

import { execFileSync } from 'node:child_process';
import { rmSync, statfsSync } from 'node:fs';
import { fill, fio, fioSubjects } from './fio.mjs';

const TMPFS_MAGIC = 0x01021994;
/** Formats, and those of the backing files that QEMU opens below them. */
const BELOW = {
  qed: ['raw', 'qed'],
  qcow2: ['raw', 'qcow2'],
  vdi: [],
  vpc: [],
  vmdk: ['vmdk'],
  vhdx: [],
  parallels: [],
};
/** `onTmpfs`: what the ratio to QEMU shall be where a write costs no I/O; on a disk it is 1. */
const EMPTY_ROWS = [
  { row: 'sequential 1M', unit: 'MiB/s', onTmpfs: 1.5, args: ['--rw=write', '--bs=1M'] },
  { row: 'random 64k', unit: 'IOPS', onTmpfs: 1.5, args: ['--rw=randwrite', '--bs=64k'] },
  { row: 'random 4k', unit: 'IOPS', onTmpfs: 3, args: ['--rw=randwrite', '--bs=4k'] },
  {
    row: 'random 4k, depth 16',
    unit: 'IOPS',
    onTmpfs: 3,
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=16'],
  },
  {
    row: 'random 4k, flush every 32',
    unit: 'IOPS',
    onTmpfs: 1.5,
    args: ['--rw=randwrite', '--bs=4k', '--fsync=32'],
  },
];
const BACKED_ROWS = [
  { row: 'sequential 1M', unit: 'MiB/s', onTmpfs: 1.5, args: ['--rw=write', '--bs=1M', '--size=1g'] },
  { row: 'random 64k', unit: 'IOPS', onTmpfs: 1.5, args: ['--rw=randwrite', '--bs=64k', '--size=1g'] },
  { row: 'random 4k', unit: 'IOPS', onTmpfs: 3, args: ['--rw=randwrite', '--bs=4k', '--size=1g', '--io_size=32m'] },
];

export async function run(workshop, measurements) {
  const onTmpfs = isOnTmpfs(workshop);
  for (const [format, belows] of Object.entries(BELOW)) {
    if (!workshop.wants(format)) continue;
    await emptyRows(workshop, measurements, format, '16G');
    for (const below of belows) {
      const base = { format: below, file: workshop.path(`base.${below}`) };
      const prepare = once(() => makeBase(workshop, base));
      for (const { row, unit, args, ...each } of BACKED_ROWS) {
        await measurements.row({
          section: `${format}, 1 GiB over a full ${below} file: every write allocates`,
          ...{ row, unit, target: { to: 'QEMU', atLeast: onTmpfs ? each.onTmpfs : 1 } },
          subjects: fioSubjects(workshop).map((subject) => ({
            name: subject.name,
            sample: async () => {
              await prepare();
              return sample(workshop, subject, format, base, (file) => fio(file, args, unit, null));
            },
          })),
        });
      }
      rmSync(base.file, { force: true });
    }
  }
}

/** @param size of the image @param more words of fio; `warm` is the name that the rows get for them */
export async function emptyRows(workshop, measurements, format, size, more = [], warm = '') {
  const onTmpfs = isOnTmpfs(workshop);
  for (const { row, unit, args, ...each } of EMPTY_ROWS) {
    const job = [...args, `--size=${size}`, ...more];
    await measurements.row({
      section: `${format}, ${size.slice(0, -1)} GiB, empty: every write allocates`,
      ...{ row: `${row}${warm}`, unit, target: { to: 'QEMU', atLeast: onTmpfs ? each.onTmpfs : 1 } },
      subjects: fioSubjects(workshop).map((subject) => ({
        name: subject.name,
        sample: () => sample(workshop, subject, format, size, (file) => fio(file, job, unit, measurements.seconds)),
      })),
    });
  }
}

function isOnTmpfs(workshop) {
  return statfsSync(workshop.directory).type === TMPFS_MAGIC;
}

/** A base that no row asks for is not made. */
function once(make) {
  let made;
  return () => {
    made ??= make();
    return made;
  };
}

async function makeBase(workshop, { format, file }) {
  workshop.imgfuse('create', '-f', format, file, '1G');
  const at = workshop.path('base');
  const mount = workshop.mountImgfuse(workshop.builds[0].cli, file, at, format === 'raw' ? ['--format', 'raw'] : []);
  fill(mount.file, '1g');
  await mount.unmount();
}

/** @param made size of an empty image, or the base of the new one */
async function sample(workshop, subject, format, made, measure) {
  const image = workshop.path(`new.${format}`);
  if (typeof made === 'string') workshop.imgfuse('create', '-f', format, image, made);
  else workshop.imgfuse('create', '-f', format, '-b', made.file, '-F', made.format, image);
  // what the one before has written and deleted is on the disk, and the disk has rested
  execFileSync('sync');
  await new Promise((resolve) => setTimeout(resolve, 500));
  const mount = await subject.mount(image, workshop.path('new'), format);
  const figure = measure(mount.file);
  await mount.unmount();
  rmSync(image);
  return figure;
}
