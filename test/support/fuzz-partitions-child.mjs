// The process that reads damaged partition tables and file systems, one after the other, in memory; its parent (fuzz-watch.ts) watches
// its time and its memory. It writes down where it is before each mutant, so that whatever ends it can be run again.

import { writeSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { crc32 } from 'node:zlib';

const dist = new URL('../../dist/', import.meta.url);
const { ImgfuseError } = await import(new URL('errors/index.js', dist));
const { contentOf, readPartitionTable } = await import(new URL('guest/partitions/index.js', dist));

/** The descriptor of the file that has the number of the mutant under way. */
const PROGRESS = 4;
const MIB = 1024 * 1024;
/** Of a table: 255 partitions and 101 records without one, the MBR, and the label of LVM. */
const MOST_TABLE_READS = 360;
/** The arrays of a primary and a backup table, and headers for four sizes of sectors. */
const MOST_TABLE_BYTES = 2 * MIB + 64 * 1024;
/** Of a volume: the longest record in the log of an XFS, and the search for its end. */
const MOST_CONTENT_READS = 600;
const MOST_CONTENT_BYTES = MIB;
const MOST_PARTITIONS = 255;
/** Partitions of one table whose content is looked at. */
const LOOKED_INTO = 6;
const LOOK_EVERY = 64;

class Bug extends Error {}

/** Mulberry32, as test/support/random.ts. */
function seededRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A disk in memory that counts, refuses what lies outside, and may fail at one of its reads. */
class Source {
  constructor(bytes, size) {
    this.bytes = bytes;
    this.size = size;
    this.failAt = Number.POSITIVE_INFINITY;
    this.reset();
  }

  reset() {
    this.reads = 0;
    this.bytesRead = 0;
  }

  read(target, offset) {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + target.length > this.size) {
      throw new Bug(`a read of ${target.length} bytes at ${offset}, outside of ${this.size}`);
    }
    if (this.reads++ === this.failAt) throw new ImgfuseError('io', 'this read fails');
    this.bytesRead += target.length;
    target.set(this.bytes.subarray(offset, offset + target.length));
  }

  /** @returns what `work` returns; null if the read that must fail did */
  within(what, reads, bytes, work) {
    this.reset();
    let result = null;
    try {
      result = work();
    } catch (error) {
      if (error instanceof Bug) throw error;
      if (error instanceof ImgfuseError && error.message === 'this read fails') return null;
      throw new Bug(`${what} throws ${error?.stack ?? error}`);
    }
    if (this.reads > reads || this.bytesRead > bytes) {
      throw new Bug(`${what} takes ${this.reads} reads and ${this.bytesRead} bytes`);
    }
    return result;
  }
}

class Subject {
  constructor({ name, size, chunks, places, headers }) {
    Object.assign(this, { name, size, places, headers });
    this.bytes = Buffer.alloc(size);
    for (const [at, base64] of chunks) this.bytes.set(Buffer.from(base64, 'base64'), at);
    this.undo = [];
  }

  /** Damages some fields and, half of the time, makes the checksums right again. @returns the disk, which may be cut */
  mutant(random) {
    const changes = 1 + Math.floor(random() * random() * 6);
    for (let change = 0; change < changes; change++) this.damage(random);
    if (random() < 0.5) for (const header of this.headers) this.mend(header);
    const cut = random() < 0.1 ? this.size - Math.floor(random() * (random() < 0.5 ? 5000 : this.size)) : this.size;
    return new Source(this.bytes, cut);
  }

  restore() {
    for (const [at, bytes] of this.undo.reverse()) this.bytes.set(bytes, at);
    this.undo = [];
  }

  change(at, bytes) {
    this.undo.push([at, Buffer.from(this.bytes.subarray(at, at + bytes.length))]);
    this.bytes.set(bytes, at);
  }

  damage(random) {
    const pick = (list) => list[Math.floor(random() * list.length)];
    const { at, width } = pick(this.places);
    const bits = BigInt(width * 8);
    const read = (place) => BigInt(this.bytes.readUIntLE(place.at, Math.min(place.width, 4)));
    const most = (1n << bits) - 1n;
    const sectors = BigInt(Math.floor(this.size / 512));
    const edges = [
      0n,
      1n,
      2n,
      most,
      most >> 1n,
      (most >> 1n) + 1n,
      sectors,
      sectors - 1n,
      sectors / 8n,
      0x55aan,
      0xeen,
      5n,
      128n,
      512n,
    ];
    const value = read({ at, width });
    const choice = random();
    const next =
      choice < 0.35
        ? pick(edges)
        : choice < 0.6
          ? value + pick([1n, -1n, 2n, -2n, 8n, -8n])
          : choice < 0.75
            ? read(pick(this.places))
            : choice < 0.85
              ? value ^ (1n << BigInt(Math.floor(random() * width * 8)))
              : BigInt(Math.floor(random() * 2 ** 32)) << (random() < 0.2 ? 32n : 0n);
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(next & most);
    const damaged = bytes.subarray(0, width);
    this.change(at, random() < 0.1 ? damaged.reverse() : damaged);
  }

  /** The checksums of a header and of its array, wherever both now are. */
  mend({ at, sectorSize }) {
    const header = Buffer.from(this.bytes.subarray(at, at + sectorSize));
    const start = header.readBigUInt64LE(72) * BigInt(sectorSize);
    const length = header.readUInt32LE(80) * header.readUInt32LE(84);
    if (length <= MIB && start + BigInt(length) <= BigInt(this.size)) {
      header.writeUInt32LE(crc32(this.bytes.subarray(Number(start), Number(start) + length)), 88);
    }
    header.writeUInt32LE(0, 16);
    header.writeUInt32LE(crc32(header.subarray(0, Math.min(header.readUInt32LE(12), sectorSize))), 16);
    this.change(at, header);
  }
}

function examine(subject, random, counts) {
  const disk = subject.mutant(random);
  if (random() < 0.02) disk.failAt = Math.floor(random() * 12);
  const readTable = () => disk.within('the table', MOST_TABLE_READS, MOST_TABLE_BYTES, () => readPartitionTable(disk));
  const table = readTable();
  if (table === null) return;
  expectSane(table, disk);
  if (table.scheme !== null) counts.tables++;
  counts.partitions += table.partitions.length;
  for (const { start, size } of [...table.partitions.slice(0, LOOKED_INTO), { start: 0, size: disk.size }]) {
    const content = disk.within('a content', MOST_CONTENT_READS, MOST_CONTENT_BYTES, () =>
      contentOf(disk, start, size),
    );
    if (content === null) continue;
    counts.contents++;
    for (const text of [content.type, content.label ?? '', content.uuid ?? '', ...content.also]) {
      if (!text.isWellFormed()) throw new Bug(`text that is none: ${JSON.stringify(content)}`);
    }
  }
  if (random() < 0.05) expectDependsOnLooked(subject, table, readTable, random);
}

function expectSane({ scheme, sectorSize, partitions, warnings, looked }, disk) {
  if (scheme === null && partitions.length > 0) throw new Bug('partitions without a table');
  if (![512, 1024, 2048, 4096].includes(sectorSize)) throw new Bug(`sectors of ${sectorSize} bytes`);
  if (partitions.length > MOST_PARTITIONS || warnings.length > 33) {
    throw new Bug(`${partitions.length} partitions, ${warnings.length} warnings`);
  }
  const numbers = new Set();
  for (const partition of partitions) {
    const { number, start, size, name } = partition;
    const isInside = start >= 0 && size >= 1 && start + size <= disk.size && Number.isSafeInteger(start + size);
    const isNumber = Number.isSafeInteger(number) && number >= 1 && number <= MOST_PARTITIONS && !numbers.has(number);
    if (!isInside || !isNumber || name?.isWellFormed() === false)
      throw new Bug(`a partition ${JSON.stringify(partition)}`);
    numbers.add(number);
  }
  for (const sentence of warnings)
    if (!/^[\x20-\x7e]{10,300}$/.test(sentence)) throw new Bug(`the warning "${sentence}"`);
  let last = -1;
  for (const { start, end } of looked) {
    if (start <= last || end <= start || end > disk.size) throw new Bug(`ranges ${JSON.stringify(looked)}`);
    last = end;
  }
}

/** Bytes that were not looked at can be anything. */
function expectDependsOnLooked(subject, table, readTable, random) {
  for (let count = 0; count < 8; count++) {
    const { at } = subject.places[Math.floor(random() * subject.places.length)];
    if (!table.looked.some(({ start, end }) => at >= start && at < end)) {
      subject.change(at, Buffer.of(Math.floor(random() * 256)));
    }
  }
  const again = readTable();
  if (again !== null && !isDeepStrictEqual(again, table)) {
    throw new Bug(`the table depends on more than it says: ${JSON.stringify(table)} became ${JSON.stringify(again)}`);
  }
}

process.on('message', async ({ subjects: descriptions, seed, from, to, maxRssBytes }) => {
  const subjects = descriptions.map((description) => new Subject(description));
  const counts = { tables: 0, partitions: 0, contents: 0 };
  const progress = new Float64Array(1);
  let tooLarge = false;
  for (let index = from; index < to; index++) {
    const subject = subjects[index % subjects.length];
    progress[0] = index;
    writeSync(PROGRESS, progress, 0, progress.byteLength, 0);
    try {
      examine(subject, seededRandom(seed * 1_000_003 + index * 7919), counts);
    } catch (error) {
      if (!(error instanceof Bug)) throw error;
      process.send({ bug: `mutant ${index} of ${subject.name}: ${error.message}` });
    } finally {
      subject.restore();
    }
    if (index % LOOK_EVERY > 0 && index + 1 < to) continue;
    await new Promise(setImmediate);
    const peak = process.resourceUsage().maxRSS * 1024;
    if (peak > maxRssBytes && !tooLarge) {
      tooLarge = true;
      process.send({
        bug: `mutant ${index} of ${subject.name}, or one before it: the process has grown to ${Math.ceil(peak / MIB)} MiB`,
      });
    }
  }
  const { maxRSS, systemCPUTime, userCPUTime } = process.resourceUsage();
  process.send({ done: true, counts, peakBytes: maxRSS * 1024, cpuMicroseconds: userCPUTime + systemCPUTime });
  process.disconnect();
});
