#!/usr/bin/env node
// npm run bench: imgfuse (both transports) against qemu-storage-daemon's FUSE export where that is installed. Every row is
// measured for all subjects in turn, several rounds, and the median is shown with the ratio to QEMU: machines are noisy,
// ratios within one run are not. Needs fio and qemu-img; run as root. Options: --seconds N --rounds N --json --quick.

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseOptions } from './parse-options.mjs';

const options = parseOptions(
  'npm run bench -- [--seconds N] [--rounds N] [--rows TEXT] [--other CLI] [--quick] [--json]\n' +
    '  --seconds N     for each measurement (default 2)\n' +
    '  --rounds N      of which the median is shown (default 3)\n' +
    '  --rows TEXT     those with TEXT in their name: "random 4k"\n' +
    '  --other CLI     dist/cli.js of another build, measured in the place of fuse-native\n' +
    '  --quick         one round of a second\n' +
    '  --json          all results, as JSON',
  {
    seconds: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    rows: { type: 'string', default: '' },
    other: { type: 'string' },
  },
);
const SECONDS = options.quick ? 1 : Number(options.seconds);
const ROUNDS = options.quick ? 1 : Number(options.rounds);
const CLI = new URL('../dist/cli.js', import.meta.url).pathname;
const directory = mkdtempSync(join(tmpdir(), 'imgfuse-bench-'));
const environment = { ...process.env, IMGFUSE_RUNTIME_DIR: join(directory, 'run') };
const started = [];

/** fio jobs; `unit` says which figure of fio's result counts. */
const PRESENT_ROWS = [
  { name: 'sequential read 1M', unit: 'MiB/s', fio: ['--rw=read', '--bs=1M'] },
  { name: 'read 128k, depth 8', unit: 'MiB/s', fio: ['--rw=read', '--bs=128k', '--iodepth=8'] },
  { name: 'random read 4k, depth 1', unit: 'IOPS', fio: ['--rw=randread', '--bs=4k'] },
  { name: 'random read 4k, depth 16', unit: 'IOPS', fio: ['--rw=randread', '--bs=4k', '--iodepth=16'] },
  {
    name: 'random read 4k, 4 jobs',
    unit: 'IOPS',
    fio: ['--rw=randread', '--bs=4k', '--numjobs=4', '--group_reporting'],
  },
  { name: 'random write 4k, depth 1', unit: 'IOPS', fio: ['--rw=randwrite', '--bs=4k'] },
  { name: 'random write 4k, depth 16', unit: 'IOPS', fio: ['--rw=randwrite', '--bs=4k', '--iodepth=16'] },
  { name: 'sequential write 1M', unit: 'MiB/s', fio: ['--rw=write', '--bs=1M'] },
];
/** On an empty image of 16 GiB: every write allocates. */
const EMPTY_ROWS = [
  { name: 'sequential 1M', unit: 'MiB/s', fio: ['--rw=write', '--bs=1M', '--size=4g'] },
  { name: 'random 64k', unit: 'IOPS', fio: ['--rw=randwrite', '--bs=64k', '--size=16g'] },
  { name: 'random 4k', unit: 'IOPS', fio: ['--rw=randwrite', '--bs=4k', '--size=16g'] },
  { name: 'random 4k, depth 16', unit: 'IOPS', fio: ['--rw=randwrite', '--bs=4k', '--iodepth=16', '--size=16g'] },
  { name: 'random 4k, flush every 32', unit: 'IOPS', fio: ['--rw=randwrite', '--bs=4k', '--fsync=32', '--size=16g'] },
];

const hasQemu = spawnSync('qemu-storage-daemon', ['--version']).status === 0;
const subjects = [
  { name: 'imgfuse', mount: (image, at) => mountImgfuse(image, at, CLI) },
  options.other === undefined
    ? { name: 'imgfuse, fuse-native', mount: (image, at) => mountImgfuse(image, at, CLI, 'fuse-native') }
    : { name: 'other build', mount: (image, at) => mountImgfuse(image, at, options.other) },
  ...(hasQemu ? [{ name: 'QEMU', mount: mountQemu }] : []),
];

process.on('SIGINT', () => process.exit(130));
process.on('SIGTERM', () => process.exit(143));
process.on('exit', cleanUp);
const results = [];
try {
  for (const format of ['raw', 'qed', 'qcow2']) await benchPresent(format);
  for (const format of ['qed', 'qcow2']) await benchEmpty(format);
  await benchStart();
} finally {
  cleanUp();
}
if (options.json) console.log(JSON.stringify(results, null, 2));

/** A fully allocated image of 1 GiB, mounted once for every subject. */
async function benchPresent(format) {
  if (!PRESENT_ROWS.some(({ name }) => name.includes(options.rows))) return;
  const mounts = [];
  for (const [index, subject] of subjects.entries()) {
    const image = join(directory, `present-${index}.${format}`);
    imgfuse('create', '-f', format, image, '1G');
    mounts.push(await subject.mount(image, join(directory, `present-${index}`), format));
    fio(mounts[index].file, { fio: ['--rw=write', '--bs=1M', '--size=1g'], unit: 'MiB/s' }, null);
  }
  await report(`${format}, 1 GiB, all of it allocated`, PRESENT_ROWS, (row, index) =>
    fio(mounts[index].file, row, SECONDS),
  );
  for (const mount of mounts) await mount.unmount();
}

/** A new empty image for every single measurement. */
async function benchEmpty(format) {
  await report(`${format}, 16 GiB, empty: every write allocates`, EMPTY_ROWS, async (row, index) => {
    const image = join(directory, `empty-${index}.${format}`);
    imgfuse('create', '-f', format, image, '16G');
    // what the one before has written and deleted is on the disk, and the disk has rested
    execFileSync('sync');
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const mount = await subjects[index].mount(image, join(directory, `empty-${index}`), format);
    const figure = fio(mount.file, row, SECONDS);
    await mount.unmount();
    rmSync(image);
    return figure;
  });
}

/** From the command to the first byte read through the mount, the builds in turn. */
async function benchStart() {
  const image = join(directory, 'start.qed');
  imgfuse('create', '-f', 'qed', image, '16G');
  const builds = [{ name: 'imgfuse', cli: CLI }];
  if (options.other !== undefined) builds.push({ name: 'other build', cli: options.other });
  const times = builds.map(() => []);
  for (let run = 0; run < 10; run++) {
    for (const index of shuffled([...builds.keys()])) {
      const begin = performance.now();
      const mount = await mountImgfuse(image, join(directory, 'start'), builds[index].cli);
      statSync(mount.file);
      times[index].push(performance.now() - begin);
      await mount.unmount();
    }
  }
  const figures = Object.fromEntries(builds.map(({ name }, index) => [name, Math.round(median(times[index]))]));
  results.push({ group: 'start', row: 'command to usable mount', unit: 'ms', figures });
  const shown = Object.entries(figures).map(([name, figure]) => `${name} ${figure} ms`);
  print(`\ncommand to usable mount, median of ${times[0].length}: ${shown.join(', ')}`);
}

async function report(group, rows, measure) {
  print(`\n${group}`);
  const ratioNames = subjects
    .slice(1)
    .map(({ name }) => name)
    .filter((name) => name !== 'imgfuse, fuse-native');
  print(
    `${'row'.padEnd(28)}${subjects.map(({ name }) => name.padStart(22)).join('')}${ratioNames.map((name) => `imgfuse / ${name}`.padStart(22)).join('')}`,
  );
  for (const row of rows.filter(({ name }) => name.includes(options.rows))) {
    const samples = subjects.map(() => []);
    for (let round = 0; round < ROUNDS; round++) {
      // in another order each time: everyone finds the machine's memory and disk as the one before has left them
      for (const index of shuffled([...subjects.keys()])) samples[index].push(await measure(row, index));
    }
    const figures = samples.map((list) => median(list));
    const cells = figures.map((figure) => `${format(figure)} ${row.unit}`.padStart(22)).join('');
    const ratios = ratioNames.map((name) => figures[0] / figures[subjects.findIndex((each) => each.name === name)]);
    print(`${row.name.padEnd(28)}${cells}${ratios.map((ratio) => `${ratio.toFixed(2)} x`.padStart(22)).join('')}`);
    results.push({
      group,
      row: row.name,
      unit: row.unit,
      figures: Object.fromEntries(subjects.map(({ name }, index) => [name, Math.round(figures[index])])),
    });
  }
}

/** One fio run on an existing file. @returns MiB/s or IOPS */
function fio(file, row, seconds) {
  const time = seconds === null ? [] : ['--time_based', `--runtime=${seconds}`];
  const args = [
    '--name=bench',
    `--filename=${file}`,
    '--direct=1',
    '--ioengine=libaio',
    '--output-format=json',
    '--randrepeat=1',
  ];
  const output = execFileSync('fio', [...args, '--allow_file_create=0', ...time, ...row.fio], { encoding: 'utf8' });
  const [job] = JSON.parse(output.slice(output.indexOf('{'))).jobs;
  const side = job.read.io_bytes > job.write.io_bytes ? job.read : job.write;
  return row.unit === 'IOPS' ? side.iops : side.bw / 1024;
}

function imgfuse(...args) {
  return execFileSync(process.execPath, [CLI, ...args], { encoding: 'utf8', env: environment });
}

async function mountImgfuse(image, at, cli, transport = 'kernel') {
  mkdirSync(at, { recursive: true });
  const run = (...args) => execFileSync(process.execPath, [cli, ...args], { encoding: 'utf8', env: environment });
  run('mount', image, at, '--transport', transport, ...(image.endsWith('.raw') ? ['--format', 'raw'] : []));
  started.push(() => spawnSync(process.execPath, [cli, 'unmount', at], { env: environment }));
  return {
    file: join(at, 'disk.raw'),
    unmount: async () => {
      started.pop();
      run('unmount', at);
    },
  };
}

/** QEMU mounts on a regular file and has no tool to unmount and wait: SIGTERM, then its exit. */
async function mountQemu(image, at, format) {
  const file = `${at}.file`;
  writeFileSync(file, '');
  const daemon = spawn(
    'qemu-storage-daemon',
    [
      ...['--blockdev', `driver=file,node-name=file,filename=${image},discard=unmap`],
      ...['--blockdev', `driver=${format},node-name=disk,file=file,discard=unmap`],
      ...['--export', `type=fuse,id=export,node-name=disk,mountpoint=${file},writable=on`],
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  const ended = new Promise((resolve) => daemon.on('exit', resolve));
  started.push(() => daemon.kill('SIGKILL'));
  for (let wait = 0; statSync(file).size === 0; wait++) {
    if (wait > 500) throw new Error('qemu-storage-daemon did not export the image');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return {
    file,
    unmount: async () => {
      started.pop();
      daemon.kill('SIGTERM');
      await ended;
    },
  };
}

function cleanUp() {
  for (const stop of started.splice(0)) stop();
  if (existsSync(directory)) rmSync(directory, { recursive: true, force: true });
}

function shuffled(list) {
  return list
    .map((item) => ({ item, key: Math.random() }))
    .sort((a, b) => a.key - b.key)
    .map(({ item }) => item);
}

function median(list) {
  return [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
}

function format(figure) {
  return figure >= 10_000 ? `${(figure / 1000).toFixed(1)} k` : figure.toFixed(0);
}

function print(line) {
  if (!options.json) console.log(line);
}
