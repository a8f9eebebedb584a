// How long a small read takes that has nothing to wait for, beside what changes the metadata of the same image: the 99.9th
// percentile of random reads of 4 KiB, of clusters with data, beside random allocating writes of 4 KiB with a flush after every
// 32, and beside a discard of 1 TiB; each compared with the same reads alone. The raw image, and a program that only counts, tell what
// the machine itself does to a read beside that. Runs alone, too: node scripts/bench/latency.mjs [--rounds N] [--seconds N] [--holds MS].

import { spawn } from 'node:child_process';
import { closeSync, fsyncSync, ftruncateSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE } from '../../dist/bytes/linux.js';
import { fallocate } from '../../dist/native/index.js';
import { fill } from './fio.mjs';

const GIB = 2 ** 30;
const CLUSTER = 65536;
/** What is read, at the start of the disk; what is written or discarded comes after it. */
const READ_BYTES = GIB / 4;
const WRITTEN_BYTES = 64 * GIB;
const DISCARDED_BYTES = 1024 * GIB;
const SIZE = READ_BYTES + DISCARDED_BYTES;
const FORMATS = ['raw', 'qed', 'qcow2'];

export async function run(workshop, measurements) {
  for (const format of FORMATS) {
    await besideWrites(workshop, measurements, format);
    await besideDiscard(workshop, measurements, format);
  }
  await besideProgram(workshop, measurements);
}

/** What is left of the other rows if no lock is held at all: a thread that works takes a processor. */
async function besideProgram(workshop, measurements) {
  const row = 'read 4k beside a program that does nothing but count';
  if (!measurements.wants(row)) return;
  const image = workshop.path('busy.raw');
  workshop.imgfuse('create', '-f', 'raw', image, String(READ_BYTES));
  const mount = workshop.mountImgfuse(workshop.builds[0].cli, image, workshop.path('mnt'), rawOption('raw'));
  fill(mount.file, String(READ_BYTES));
  await compare(measurements, 'raw', row, (beside) =>
    percentile(mount.file, measurements.seconds, async (seconds) => {
      const busy = beside ? workshop.start(process.execPath, ['-e', 'for (;;);']) : undefined;
      await sleep(seconds * 1000);
      await busy?.stop('SIGKILL');
    }),
  );
  await mount.unmount();
}

function besideWrites(workshop, measurements, format) {
  return besideChange(workshop, measurements, format, {
    row: 'read 4k beside allocating writes',
    make: (image) => workshop.imgfuse('create', '-f', format, image, String(SIZE)),
    change: writes,
  });
}

function besideDiscard(workshop, measurements, format) {
  return besideChange(workshop, measurements, format, {
    row: 'read 4k beside a discard of 1 TiB',
    make: (image) => makeMapped(workshop, format, image),
    change: discards,
  });
}

async function besideChange(workshop, measurements, format, { row, make, change }) {
  if (!measurements.wants(row)) return;
  const image = workshop.path(`changed.${format}`);
  await compare(measurements, format, row, async (beside) => {
    make(image);
    const mount = workshop.mountImgfuse(workshop.builds[0].cli, image, workshop.path('mnt'), rawOption(format));
    fill(mount.file, String(READ_BYTES));
    const figure = await percentile(mount.file, measurements.seconds, async (seconds) => {
      if (beside) await change(mount.file, seconds);
      else await sleep(seconds * 1000);
    });
    noteHolds(workshop.directory);
    await mount.unmount();
    rmSync(image);
    return figure;
  });
}

function compare(measurements, format, row, sample) {
  return measurements.row({
    section: `${format}, the 99.9th percentile`,
    row,
    unit: 'us',
    subjects: [
      { name: 'beside', sample: () => sample(true) },
      { name: 'alone', sample: () => sample(false) },
    ],
    warmUps: 0,
    target: { to: 'alone', atMost: 3 },
  });
}

/** @param work what goes on beside the reads, and how long they last @returns microseconds */
async function percentile(file, seconds, work) {
  // ended by a signal: the work may take longer
  const reader = startFio(file, ['--rw=randread', `--size=${READ_BYTES}`, '--runtime=600']);
  await sleep(500);
  await work(seconds);
  reader.child.kill('SIGINT');
  const { clat_ns } = (await reader.ended).read;
  return clat_ns.percentile['99.900000'] / 1000;
}

async function writes(file, seconds) {
  const place = [`--offset=${READ_BYTES}`, `--size=${WRITTEN_BYTES}`];
  await startFio(file, ['--rw=randwrite', '--fsync=32', ...place, `--runtime=${seconds}`]).ended;
}

/**
 * One discard, flushed; again until the time is over, when nothing is left to discard. With pauses, as a guest trims now and then. In this
 * process: two programs that start ten times a second take the processors from the reads, and the row of raw, which has nothing to do
 * here, was 5 times the reads alone.
 */
async function discards(file, seconds) {
  const end = performance.now() + seconds * 1000;
  const descriptor = openSync(file, 'r+');
  do {
    fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, READ_BYTES, DISCARDED_BYTES);
    fsyncSync(descriptor);
    await sleep(100);
  } while (performance.now() < end);
  closeSync(descriptor);
}

function startFio(file, args) {
  const common = ['--name=latency', `--filename=${file}`, '--direct=1', '--ioengine=psync', '--bs=4k', '--time_based'];
  const child = spawn('fio', [...common, '--allow_file_create=0', '--output-format=json', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (text) => (output += text));
  const ended = new Promise((resolve, reject) => {
    child.on('close', () => {
      const json = output.slice(output.indexOf('\n{') + 1 || output.indexOf('{'), output.lastIndexOf('}') + 1);
      try {
        resolve(JSON.parse(json).jobs[0]);
      } catch {
        reject(new Error(`fio said: ${output}`));
      }
    });
  });
  return { child, ended };
}

/** An image whose every cluster has a place, in a sparse file. */
function makeMapped(workshop, format, image) {
  if (format === 'qed') makeMappedQed(image);
  else {
    const options = format === 'qcow2' ? ['-o', 'preallocation=metadata'] : [];
    workshop.imgfuse('create', '-f', format, ...options, image, String(SIZE));
  }
}

/** QED has no option for that: header, L1 table, L2 tables of one cluster each, then the data. */
function makeMappedQed(image) {
  const perTable = CLUSTER / 8;
  const clusters = SIZE / CLUSTER;
  const tables = Math.ceil(clusters / perTable);
  const data = (2 + tables) * CLUSTER;
  const head = Buffer.alloc(2 * CLUSTER);
  head.writeUInt32LE(0x00444551, 0);
  head.writeUInt32LE(CLUSTER, 4);
  head.writeUInt32LE(1, 8);
  head.writeUInt32LE(1, 12);
  head.writeBigUInt64LE(BigInt(CLUSTER), 40);
  head.writeBigUInt64LE(BigInt(SIZE), 48);
  for (let table = 0; table < tables; table++)
    head.writeBigUInt64LE(BigInt((2 + table) * CLUSTER), CLUSTER + table * 8);
  const file = openSync(image, 'w');
  writeSync(file, head, 0, head.length, 0);
  const entries = Buffer.alloc(CLUSTER);
  for (let table = 0; table < tables; table++) {
    entries.fill(0);
    for (let index = 0; index < perTable && table * perTable + index < clusters; index++) {
      entries.writeBigUInt64LE(BigInt(data + (table * perTable + index) * CLUSTER), index * 8);
    }
    writeSync(file, entries, 0, CLUSTER, (2 + table) * CLUSTER);
  }
  ftruncateSync(file, data + clusters * CLUSTER);
  closeSync(file);
}

function rawOption(format) {
  return format === 'raw' ? ['--format', 'raw'] : [];
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** What mounts have logged of their lock holds: how many of each kind, and the longest. */
const holds = new Map();

/** Of a mount that is still there: the log goes with it. */
function noteHolds(directory) {
  const logs = readdirSync(directory, { recursive: true }).filter((name) => name.endsWith('.log'));
  for (const name of logs) {
    const found = readFileSync(join(directory, name), 'utf8').matchAll(/were locked for ([\d.]+) ms by (.*)/g);
    for (const [, ms, callers] of found) {
      const kind = holds.get(callers) ?? { count: 0, longest: 0 };
      holds.set(callers, { count: kind.count + 1, longest: Math.max(kind.longest, Number(ms)) });
    }
  }
}

function showHolds() {
  for (const [callers, { count, longest }] of [...holds].sort(([, a], [, b]) => b.longest - a.longest)) {
    console.log(`  ${String(count).padStart(6)} holds, at most ${longest.toFixed(2)} ms: ${callers}`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { parseOptions } = await import('../parse-options.mjs');
  const { Measurements } = await import('./measurements.mjs');
  const { Workshop } = await import('./workshop.mjs');
  const options = parseOptions(
    'node scripts/bench/latency.mjs [--rounds N] [--seconds N] [--only TEXT] [--formats LIST] [--cli FILE] [--holds MS]\n' +
      '  --rounds N      of which the median is shown (default 3)\n' +
      '  --seconds N     of reads in each (default 5)\n' +
      '  --only TEXT     rows with TEXT in their name\n' +
      '  --formats LIST  of raw, qed and qcow2 (default all)\n' +
      '  --cli FILE      dist/cli.js of another build, measured instead of this one\n' +
      '  --holds MS      shows what held the metadata lock for longer',
    {
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '5' },
      only: { type: 'string', default: '' },
      formats: { type: 'string', default: FORMATS.join(',') },
      cli: { type: 'string' },
      holds: { type: 'string' },
    },
  );
  const workshop = new Workshop({ other: undefined });
  process.on('SIGINT', () => process.exit(130));
  process.on('SIGTERM', () => process.exit(143));
  process.on('exit', () => workshop.cleanUp());
  if (options.cli !== undefined) workshop.builds[0].cli = options.cli;
  if (options.holds !== undefined) workshop.environment.IMGFUSE_LOCK_HOLDS = options.holds;
  const measurements = new Measurements({
    rounds: Number(options.rounds),
    seconds: Number(options.seconds),
    only: options.only,
    print: (line) => console.log(line),
  });
  FORMATS.splice(0, FORMATS.length, ...options.formats.split(','));
  await run(workshop, measurements);
  showHolds();
}
