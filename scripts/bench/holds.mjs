#!/usr/bin/env node
// How long each kind of change and search holds the metadata lock, in CPU time of the thread: node scripts/bench/holds.mjs
// [--folder DIR]. One thread works on an open image of 1 TiB in this process, without a mount; for each step the functions are
// shown that held the lock longest. What a hold waits for, such as a processor or a disk, is not in these figures: nothing below
// runs an fdatasync under the lock (test/unit/format/mapped/lock-holds.test.ts), and IMGFUSE_LOCK_HOLDS shows the rest in a mount.

import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { steadyMs } from '../../dist/concurrency/clock.js';
import { reportHolds } from '../../dist/concurrency/hold-times.js';
import { createDisk, openDisk } from '../../dist/disk/index.js';
import { parseOptions } from '../parse-options.mjs';

const { folder } = parseOptions(
  'node scripts/bench/holds.mjs [--folder DIR]\n  --folder DIR   for the images (default: TMPDIR)',
  {
    folder: { type: 'string', default: tmpdir() },
  },
);
const TIB = 2 ** 40;
const CLUSTER = 65536;
const LINKS = 16000;
const LONG_MS = 2;
const CLOCK_THREAD_CPUTIME_ID = 3;

const clockGettime = koffi.load('libc.so.6').func('int clock_gettime(int, void *)');
const time = Buffer.alloc(16);

function cpuMs() {
  clockGettime(CLOCK_THREAD_CPUTIME_ID, time);
  return Number(time.readBigInt64LE(0)) * 1000 + Number(time.readBigInt64LE(8)) / 1e6;
}

const kinds = new Map();
reportHolds(
  0,
  () => steadyMs() - cpuMs(),
  ({ ms, callers }) => {
    const name = callers.slice(0, 3).join(' < ');
    const { holds, longest, long } = kinds.get(name) ?? { holds: 0, longest: 0, long: 0 };
    kinds.set(name, { holds: holds + 1, longest: Math.max(longest, ms), long: long + (ms > LONG_MS ? 1 : 0) });
  },
);

function step(name, action) {
  kinds.clear();
  action();
  console.log(`  ${name}`);
  for (const [functions, { holds, longest, long }] of [...kinds]
    .sort(([, a], [, b]) => b.longest - a.longest)
    .slice(0, 2)) {
    console.log(`    ${holds} holds, at most ${longest.toFixed(2)} ms, ${long} above ${LONG_MS} ms: ${functions}`);
  }
}

for (const format of ['qed', 'qcow2']) {
  console.log(format);
  // over a backing file, so that links of QED wait for a flush, too
  const [base, path] = [join(folder, `holds-${process.pid}.raw`), join(folder, `holds-${process.pid}.${format}`)];
  createDisk(base, 'raw', { size: TIB, options: new Map() });
  createDisk(path, format, { size: TIB, options: new Map(), backing: base, backingFormat: 'raw' });
  try {
    const disk = openDisk(path, { readOnly: false, slots: 2, tableCacheBytes: 2 ** 23 });
    const bytes = Buffer.alloc(4096, 1);
    for (let round = 0; round < 2; round++) {
      step(`${LINKS} random allocating writes`, () => {
        for (let n = 0; n < LINKS; n++)
          disk.write(bytes, 0, 4096, Math.floor((Math.random() * TIB) / CLUSTER) * CLUSTER);
      });
      step('their flush', () => disk.flush());
    }
    step('zeros over 1 TiB', () => disk.writeZeroes(0, TIB));
    step('the flushes that free its clusters', () => {
      for (let n = 0; n < 3; n++) {
        disk.write(bytes, 0, 4096, 0);
        disk.flush();
      }
    });
    step('a search for data in 1 TiB of zero clusters', () => disk.seek(CLUSTER, true));
    step('growing to 16 TiB', () => disk.resize(16 * TIB));
    step('shrinking to 1 GiB', () => disk.resize(2 ** 30));
    step('what an idle image does', () => disk.maintain(steadyMs() + 60_000));
    disk.close();
  } finally {
    rmSync(path, { force: true });
    rmSync(base, { force: true });
  }
}
