// A thread of stress.mjs: does the requests of one round at random on the mounted disk and reports when each began and
// ended by the shared clock. A sector is full of one stamp (64 equal numbers); 0 is a sector of zeros.

import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE } from '../dist/bytes/linux.js';
import { fallocate } from '../dist/native/index.js';

const SECTOR = 512;
const WORDS = SECTOR / 8;
const MAX_SECTORS = 256;
/** Stamps of thread t are t * 2^32 + 1, + 2, ...; those below 2^32 belong to the backing file. */
const STAMPS = 2 ** 32;
const { path, index, seed, sectors, tailBytes, clock, direct, canFallocate } = workerData;

const random = seeded(seed + index * 7919);
const descriptor = openSync(path, constants.O_RDWR | (direct ? constants.O_DIRECT : 0));
const buffer = Buffer.alloc(MAX_SECTORS * SECTOR);
const words = new Float64Array(buffer.buffer, buffer.byteOffset, buffer.length / 8);
const time = new Int32Array(clock);
let stamp = (index + 1) * STAMPS;
/** what this thread, and no other, has put behind the part of the disk that all share */
let tail = new Float64Array(0);

parentPort.on('message', (requests) => {
  if (requests === 0) {
    closeSync(descriptor);
    parentPort.close();
    return;
  }
  const records = [];
  try {
    for (let n = 0; n < requests; n++) {
      if (index === 0 && tailBytes > 0 && random() < 0.03) moveEnd();
      else records.push(request());
    }
    parentPort.postMessage({ records });
  } catch (error) {
    parentPort.postMessage({ records, error: `thread ${index}: ${error.stack}` });
  }
});

function request() {
  const pick = random();
  // most of it in a few places, so that requests meet
  const area = random() < 0.7 ? Math.min(sectors, 600) : sectors;
  const first = Math.floor(random() * area);
  const most = random() < 0.6 ? 9 : MAX_SECTORS;
  const count = Math.min(sectors - first, 1 + Math.floor(random() * most));
  const begin = Atomics.add(time, 0, 1);
  const record = { kind: 'write', first, count, stamp: 0, begin, end: 0, values: null };
  if (pick < 0.45) {
    record.stamp = ++stamp;
    words.fill(stamp, 0, count * WORDS);
    const written = writeSync(descriptor, buffer, 0, count * SECTOR, first * SECTOR);
    if (written !== count * SECTOR) throw new Error(`a write of ${count} sectors took ${written} bytes`);
  } else if (pick < 0.6 && canFallocate) {
    const mode = random() < 0.5 ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;
    fallocate(descriptor, mode, first * SECTOR, count * SECTOR);
  } else if (pick < 0.65) {
    record.kind = 'flush';
    fsyncSync(descriptor);
  } else {
    record.kind = 'read';
    const got = readSync(descriptor, buffer, 0, count * SECTOR, first * SECTOR);
    if (got !== count * SECTOR) throw new Error(`a read of ${count} sectors gave ${got} bytes`);
    record.values = Array.from({ length: count }, (_, sector) => stampsOf(sector));
  }
  record.end = Atomics.add(time, 0, 1);
  return record;
}

/** The stamp of a sector of the buffer, or the list of all in it where a write came between. */
function stampsOf(sector) {
  const first = words[sector * WORDS];
  for (let word = 1; word < WORDS; word++) {
    if (words[sector * WORDS + word] === first) continue;
    return [...new Set(words.subarray(sector * WORDS, (sector + 1) * WORDS))];
  }
  return first;
}

/** The end of the disk moves: what grows reads as zeros, what stays keeps its bytes. */
function moveEnd() {
  const shared = sectors * SECTOR;
  const length = Math.floor((random() * tailBytes) / SECTOR);
  ftruncateSync(descriptor, shared + length * SECTOR);
  const moved = new Float64Array(length);
  moved.set(tail.subarray(0, length));
  tail = moved;
  if (fstatSync(descriptor).size !== shared + length * SECTOR) throw new Error('the new size is not the size');
  for (let at = 0; at < length; at += MAX_SECTORS) {
    const count = Math.min(MAX_SECTORS, length - at);
    readSync(descriptor, buffer, 0, count * SECTOR, shared + at * SECTOR);
    for (let sector = 0; sector < count; sector++) {
      if (stampsOf(sector) === tail[at + sector]) continue;
      throw new Error(`sector ${at + sector} behind the shared part is ${stampsOf(sector)}, not ${tail[at + sector]}`);
    }
  }
  if (length === 0) return;
  const at = Math.floor(random() * length);
  const count = Math.min(MAX_SECTORS, length - at);
  words.fill(++stamp, 0, count * WORDS);
  writeSync(descriptor, buffer, 0, count * SECTOR, shared + at * SECTOR);
  tail.fill(stamp, at, at + count);
}

function seeded(start) {
  let state = start >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
