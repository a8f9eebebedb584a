// What translation costs, and what Node costs: one file, all of it in the page cache, mounted three times. As an image; as a
// raw disk that is read where the data of the image lies; and by a loop in C (floor.c) that does nothing but read, pread and
// write, with as many threads. Pages of two files may lie in pieces of other sizes, so nothing else may be compared.
// CPU time is that of the process that serves, in user mode and in the kernel: other work on the machine disturbs it less.

import { execFileSync } from 'node:child_process';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileLoop, mountLoop } from './c-loop.mjs';
import { fill, fio, fioSide } from './fio.mjs';
import { cpuSecondsOf } from './workshop.mjs';

const THREADS = 2;
const ROWS = [
  { row: 'random read 4k, depth 1', unit: 'IOPS', args: ['--rw=randread', '--bs=4k'] },
  { row: 'random read 4k, depth 16', unit: 'IOPS', args: ['--rw=randread', '--bs=4k', '--iodepth=16'] },
  { row: 'read 128k, depth 8', unit: 'MiB/s', args: ['--rw=read', '--bs=128k', '--iodepth=8'] },
  { row: 'sequential read 1M', unit: 'MiB/s', args: ['--rw=read', '--bs=1M'] },
];

const TRANSLATION = 'random read 4k, JavaScript alone';

export async function run(workshop, measurements) {
  if (![TRANSLATION, ...ROWS.map(({ row }) => cpuRow(row))].some((row) => measurements.wants(row))) return;
  const floor = workshop.hasCompiler ? compileLoop(workshop) : null;
  if (floor === null) measurements.print('\nfloor: gcc is not installed, so there is no floor');
  for (const format of ['qed', 'qcow2']) await runFormat(workshop, measurements, format, floor);
}

async function runFormat(workshop, measurements, format, floor) {
  const image = workshop.path(`floor.${format}`);
  workshop.imgfuse('create', '-f', format, image, '1G');
  const cli = workshop.builds[0].cli;
  const filled = workshop.mountImgfuse(cli, image, workshop.path('floor-fill'));
  fill(filled.file, '1g');
  await filled.unmount();
  const { start, length, offset } = longestRun(workshop, image);
  const subjects = [];
  const add = (name, mount, place) => subjects.push({ name, mount, place: [`--offset=${place}`, `--size=${length}`] });
  for (const [index, build] of workshop.builds.entries()) {
    const suffix = index === 0 ? '' : `, ${build.name}`;
    const mounted = (as) =>
      served(
        workshop.mountImgfuse(
          build.cli,
          image,
          workshop.path(`floor-${as}-${index}`),
          ['--format', as, '--workers', String(THREADS)],
          { sharing: true },
        ),
      );
    add(`${format}${suffix}`, mounted(format), start);
    add(`raw${suffix}`, mounted('raw'), offset);
  }
  if (floor !== null) add('floor', await mountLoop(workshop, floor, image, THREADS), offset);
  const pairs = [
    { of: format, to: 'raw' },
    ...subjects.filter(({ name }) => name.startsWith(`${format},`)).map(({ name }) => ({ of: format, to: name })),
    ...subjects.filter(({ name }) => name.startsWith('raw,')).map(({ name }) => ({ of: 'raw', to: name })),
    ...(floor === null ? [] : [{ of: 'raw', to: 'floor' }]),
  ];
  const section = `${format}, 1 GiB, all of it allocated, and the same file as raw; ${THREADS} threads`;
  const inRow = ({ row, unit, args }, measure) =>
    measurements.row({
      section,
      row,
      unit,
      pairs,
      subjects: subjects.map((each) => ({ name: each.name, sample: () => measure(each, [...args, ...each.place]) })),
      ...(unit === 'IOPS' || unit === 'MiB/s' ? { target: { to: 'raw', atLeast: 0.97 } } : {}),
    });
  for (const each of ROWS) {
    await inRow(each, ({ mount }, args) => fio(mount.file, args, each.unit, measurements.seconds));
    await inRow({ ...each, row: cpuRow(each.row), unit: 'us a read' }, ({ mount }, args) =>
      cpuPerRead(mount, args, measurements.seconds),
    );
  }
  for (const { mount } of subjects) await mount.unmount();
  await measurements.row({
    section,
    row: TRANSLATION,
    unit: 'ns',
    warmUps: 0,
    pairs: workshop.builds.slice(1).map(({ name }) => ({ of: format, to: `${format}, ${name}` })),
    subjects: workshop.builds.flatMap(({ cli }, index) =>
      [format, 'raw'].map((as) => ({
        name: index === 0 ? as : `${as}, ${workshop.builds[index].name}`,
        sample: () => translation(cli, image, as),
      })),
    ),
  });
}

function translation(cli, image, format) {
  const program = fileURLToPath(new URL('translate.mjs', import.meta.url));
  const output = execFileSync(process.execPath, [program, dirname(cli), image, format], { encoding: 'utf8' });
  return Number(output);
}

/** Its name has that of the row whose CPU time it is. */
function cpuRow(row) {
  return `${row}, CPU time`;
}

/** The longest range of the disk that lies in one piece in the file. */
function longestRun(workshop, image) {
  const runs = JSON.parse(workshop.imgfuse('map', '--output=json', image)).filter(({ offset }) => offset !== undefined);
  return runs.reduce((longest, each) => (each.length > longest.length ? each : longest));
}

function served(mount) {
  const [{ pid }] = JSON.parse(mount.command('status', dirname(mount.file), '--output=json'));
  return { ...mount, pid };
}

function cpuPerRead({ file, pid }, args, seconds) {
  const before = cpuSecondsOf(pid);
  const { total_ios: reads } = fioSide(file, args, seconds);
  return ((cpuSecondsOf(pid) - before) * 1e6) / reads;
}
