#!/usr/bin/env node
// npm run stress -- --minutes N --format F --workers N: many threads read, write, zero, discard, flush and resize one mounted
// disk at random, on top of each other. Every byte that is read must be one that some order of the requests explains. The
// disk is unmounted at the end, checked, and compared once more. Prints its seed; "stress: N requests, 0 wrong" is the last
// line. Other options: --threads N --transport T --backing --copy-on-read --options k=v,... --seed N --rounds N.

import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, mkdirSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { createDisk, openDisk } from '../dist/index.js';
import { parseOptions } from './parse-options.mjs';

const options = parseOptions(
  'npm run stress -- [--minutes N | --rounds N] [--format raw|qed|qcow2|qcow|vdi|vmdk|vpc|vhdx|parallels] [--options k=v,...] [--workers N] [--threads N]\n' +
    '  [--transport kernel|fuse-native] [--backing] [--copy-on-read] [--seed N]',
  {
    minutes: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '0' },
    format: { type: 'string', default: 'qcow2' },
    options: { type: 'string', default: '' },
    workers: { type: 'string', default: '4' },
    threads: { type: 'string', default: '6' },
    transport: { type: 'string', default: 'kernel' },
    backing: { type: 'boolean', default: false },
    'copy-on-read': { type: 'boolean', default: false },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
);
const CLI = new URL('../dist/cli.js', import.meta.url).pathname;
const SECTOR = 512;
const SECTORS = 24 * 1024;
const TAIL_BYTES = 1024 * 1024;
/** Formats whose disks keep their size. */
const FIXED_SIZE = ['qcow'];
const REQUESTS_A_ROUND = 250;
const THREADS = Number(options.threads);
const SEED = Number(options.seed);

const folder = mkdtempSync(join(tmpdir(), 'imgfuse-stress-'));
process.env.IMGFUSE_RUNTIME_DIR = join(folder, 'run');
const image = join(folder, `disk.${options.format}`);
const mountpoint = join(folder, 'mnt');
let mounted = false;
/** exit code once a signal has asked for the end: after the round, because the threads have the disk open until then */
let stopped = 0;
process.on('SIGINT', () => {
  stopped = 130;
});
process.on('SIGTERM', () => {
  stopped = 143;
});
process.on('exit', cleanUp);

const what = [options.format, options.options, options.backing ? 'with a backing file' : '', options.transport];
console.log(`stress: ${what.filter((each) => each !== '').join(', ')}, ${options.workers} workers, seed ${SEED}`);
/** for each sector the stamp it had when all threads last rested */
const settled = new Float64Array(SECTORS);
create();
mount();
const { requests, wrong } = await stress();
unmount();
const late = judgeImage();
console.log(`stress: ${requests} requests, ${wrong + late} wrong`);
process.exit(wrong + late === 0 ? stopped : 1);

function imgfuse(...parameters) {
  execFileSync(process.execPath, [CLI, ...parameters], { stdio: ['ignore', 'ignore', 'inherit'] });
}

function create() {
  const o = options.options === '' ? [] : ['-o', options.options];
  if (options.backing) {
    // these know their parent by a UUID, which a raw disk has not
    const format = ['vdi', 'vhdx'].includes(options.format) ? options.format : 'raw';
    const backing = join(folder, `base.${format}`);
    for (let sector = 0; sector < SECTORS; sector++) settled[sector] = sector % 3 === 0 ? 0 : sector + 1;
    const content = bytesOf(settled);
    createDisk(backing, format, { size: content.length });
    const disk = openDisk(backing, { format, readOnly: false });
    disk.write(content, 0);
    disk.close();
    imgfuse('create', '-f', options.format, ...o, '-b', backing, '-F', format, image, String(content.length));
  } else {
    imgfuse('create', '-f', options.format, ...o, image, String(SECTORS * SECTOR));
  }
}

/** The disk's bytes when each sector is full of its stamp. */
function bytesOf(stamps) {
  const words = new Float64Array((stamps.length * SECTOR) / 8);
  for (const [sector, stamp] of stamps.entries()) {
    if (stamp !== 0) words.fill(stamp, (sector * SECTOR) / 8, ((sector + 1) * SECTOR) / 8);
  }
  return Buffer.from(words.buffer);
}

function mount() {
  mkdirSync(mountpoint);
  const o = options['copy-on-read'] ? ['-o', 'copy_on_read'] : [];
  imgfuse(
    'mount',
    image,
    mountpoint,
    '--format',
    options.format,
    '--workers',
    options.workers,
    ...o,
    '--transport',
    options.transport,
  );
  mounted = true;
}

function unmount() {
  imgfuse('unmount', mountpoint);
  mounted = false;
}

function cleanUp() {
  if (mounted) spawnSync(process.execPath, [CLI, 'unmount', mountpoint]);
  rmSync(folder, { recursive: true, force: true });
}

async function stress() {
  const path = join(mountpoint, 'disk.raw');
  const direct = options.transport === 'kernel';
  const tailBytes = FIXED_SIZE.includes(options.format) ? 0 : TAIL_BYTES;
  const workerData = { path, seed: SEED, sectors: SECTORS, tailBytes, direct, canFallocate: direct };
  const clock = new SharedArrayBuffer(4);
  const threads = Array.from({ length: THREADS }, (_, index) => {
    return new Worker(new URL('./stress-thread.mjs', import.meta.url), { workerData: { ...workerData, index, clock } });
  });
  const end = Date.now() + Number(options.minutes) * 60_000;
  const rounds = Number(options.rounds);
  let requests = 0;
  let wrong = 0;
  for (let round = 0; stopped === 0 && (rounds > 0 ? round < rounds : Date.now() < end); round++) {
    const answers = await Promise.all(threads.map((thread) => ask(thread, REQUESTS_A_ROUND)));
    const records = answers.flatMap((answer) => answer.records);
    requests += records.length;
    const findings = [...answers.flatMap(({ error }) => (error === undefined ? [] : [error])), ...judge(records)];
    findings.push(...judgeRest(path, records));
    for (const finding of findings.slice(0, 10)) console.log(`round ${round}: ${finding}`);
    wrong += findings.length;
    if (wrong > 0) break;
  }
  for (const thread of threads) thread.postMessage(0);
  await Promise.all(threads.map((thread) => once(thread, 'exit')));
  return { requests, wrong };
}

function ask(thread, requests) {
  const answer = once(thread, 'message').then(([message]) => message);
  thread.postMessage(requests);
  return answer;
}

/** Every change of each sector, the settled content as one that was always there. */
function changesOf(records) {
  const changes = new Map();
  for (const record of records.filter(({ kind }) => kind === 'write')) {
    for (let sector = record.first; sector < record.first + record.count; sector++) {
      if (!changes.has(sector)) changes.set(sector, [{ stamp: settled[sector], begin: -1, end: -1 }]);
      changes.get(sector).push(record);
    }
  }
  return changes;
}

/** A stamp may be read from `begin` to `end` when it was written before the end and surely not overwritten before the begin. */
function isLegal(changes, stamp, begin, end) {
  return changes.some((change) => {
    if (change.stamp !== stamp || change.begin > end) return false;
    return !changes.some((other) => other.begin > change.end && other.end < begin);
  });
}

function judge(records) {
  const findings = [];
  const changes = changesOf(records);
  for (const { kind, first, values, begin, end } of records) {
    if (kind !== 'read') continue;
    for (const [i, value] of values.entries()) {
      const sector = first + i;
      const known = changes.get(sector) ?? [{ stamp: settled[sector], begin: -1, end: -1 }];
      for (const stamp of Array.isArray(value) ? value : [value]) {
        if (isLegal(known, stamp, begin, end)) continue;
        const list = known.map((each) => `${each.stamp} [${each.begin}, ${each.end}]`).join(', ');
        findings.push(`sector ${sector} read ${stamp} from ${begin} to ${end}; written were ${list}`);
      }
    }
  }
  return findings;
}

/** All threads rest: the disk is what some order of the changes leaves, and becomes what the next round starts from. */
function judgeRest(path, records) {
  const findings = [];
  const changes = changesOf(records);
  const bytes = Buffer.alloc(SECTORS * SECTOR);
  const descriptor = openSync(path, constants.O_RDONLY);
  readSync(descriptor, bytes, 0, bytes.length, 0);
  closeSync(descriptor);
  const words = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
  for (let sector = 0; sector < SECTORS; sector++) {
    const stamps = new Set(words.subarray((sector * SECTOR) / 8, ((sector + 1) * SECTOR) / 8));
    const [stamp] = stamps;
    const known = changes.get(sector) ?? [{ stamp: settled[sector], begin: -1, end: -1 }];
    if (stamps.size > 1 || !isLegal(known, stamp, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)) {
      findings.push(`sector ${sector} is ${[...stamps]} at rest; written were ${known.map((each) => each.stamp)}`);
    }
    settled[sector] = stamp;
  }
  return findings;
}

function hasQemu() {
  return spawnSync('qemu-img', ['--version']).status === 0;
}

/** The disk of the closed image, as QEMU reads it; it is not there, or does not know the parents of VDI, VHD and VHDX: as it is read here. */
function closedBytes() {
  const bytes = Buffer.alloc(SECTORS * SECTOR);
  if (!hasQemu() || (options.backing && ['vdi', 'vpc', 'vhdx'].includes(options.format))) {
    const disk = openDisk(image, { format: options.format });
    disk.read(bytes, 0);
    disk.close();
    return bytes;
  }
  const flat = join(folder, 'flat.raw');
  execFileSync('qemu-img', ['convert', '-f', options.format, '-O', 'raw', image, flat], { stdio: 'inherit' });
  const descriptor = openSync(flat, constants.O_RDONLY);
  readSync(descriptor, bytes, 0, bytes.length, 0);
  closeSync(descriptor);
  return bytes;
}

/** The closed image: clean, and with the bytes of the last rest. */
function judgeImage() {
  let wrong = 0;
  if (options.format !== 'raw' && spawnSync(process.execPath, [CLI, 'check', image], { stdio: 'inherit' }).status !== 0)
    wrong++;
  if (options.format === 'qcow2' && hasQemu() && spawnSync('qemu-img', ['check', '-q', image]).status !== 0) wrong++;
  const bytes = closedBytes();
  if (bytes.equals(bytesOf(settled))) return wrong;
  console.log('the closed image is not what the threads left');
  return wrong + 1;
}
