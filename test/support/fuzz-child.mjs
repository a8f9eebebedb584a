// The process that takes damaged images apart, one after the other, in memory; its parent (fuzz.ts) watches its time and its
// memory. It writes down where it is before each mutant, so that whatever ends it can be run again. Equal mutants are judged once.

import { writeSync } from 'node:fs';
import { setImmediate } from 'node:timers';
import { KnownMutants } from './fuzz-known.mjs';
import { Subject } from './fuzz-subject.mjs';

const dist = new URL('../../dist/', import.meta.url);
const { ImgfuseError } = await import(new URL('errors/index.js', dist));
const [, wrappingFiles, reusedMemory] = process.argv.slice(2);
const { CountingHostFile } = await import(wrappingFiles);
const { reusingSharedMemory } = await import(reusedMemory);
const { endsOf } = await import(new URL('format/file-ends.js', dist));
const { recognizedName } = await import(new URL('disk/probe.js', dist));

/** The descriptor of the file that has the number of the mutant under way. */
const PROGRESS = 4;
/** The descriptor of the table of the mutants that were judged. */
const KNOWN = 5;
/** Equal damage is judged so often, each time with other changes of the disk behind it. */
const TURNS = 4;
/** of a disk that claims to be large, this much is looked at */
const LOOKED_AT = 4 * 1024 * 1024;
const SPOT = LOOKED_AT / 4;
const MAX_EXTENTS = 300;
const MAX_SNAPSHOTS = 4;
/** Of a disk that is larger than this, pieces are compared, and the whole for every eighth mutant. */
const WHOLE = 768 * 1024;
/** so much around what is compared */
const MARGIN = 4096;
/** What mutants leave behind is given back, and memory is looked at, after so many of them. */
const LOOK_EVERY = 16;
/** Where no mutant is judged, the number is told after so many. */
const TELL_EVERY = 4096;

class Bug extends Error {}

// as large as the largest disk of the valid images
let scratch = Buffer.alloc(128 * 1024);
let modelBuffer = Buffer.alloc(0);
/** what is written to a disk */
const written = Buffer.alloc(60_000);

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

/** Runs `act`. @returns the ImgfuseError it throws, or null; anything else that is thrown is a bug */
function refusal(what, act) {
  try {
    act();
    return null;
  } catch (error) {
    if (error instanceof ImgfuseError) return error;
    if (error instanceof Bug) throw error;
    throw new Bug(`${what} throws ${error?.stack ?? error}`);
  }
}

/** In turn, but for the rare ones, which take long: of these one out of so many. */
function subjectOf(subjects, index) {
  const subject = subjects[index % subjects.length];
  const round = Math.floor(index / subjects.length);
  if (round % subject.rarity === 0) return subject;
  const others = subjects.filter(({ rarity }) => rarity === 1);
  return others[round % others.length];
}

/**
 * Expects the disk to hold `content`, but for the affected ranges. All of a small disk is read, and of a large one the pieces
 * that `look` chooses.
 */
function expectContent(when, image, content, affected, look) {
  if (affected === 'all') return;
  const size = Math.min(content.length, image.virtualSize());
  if (size !== content.length) throw new Bug(`${when}: the disk has ${size} bytes`);
  const ranges = [...affected].sort((a, b) => a[0] - b[0]);
  let start = 0;
  for (const [from, to] of [...ranges, [size, size]]) {
    const end = Math.min(from, size);
    for (const [first, last] of look.piecesOf(start, end)) expectBytes(when, image, content, first, last);
    start = Math.max(start, Math.min(to, size));
  }
}

function expectBytes(when, image, content, start, end) {
  const bytes = scratch.subarray(0, end - start).fill(0xee);
  const error = refusal(`${when}: reading ${start} to ${end}`, () => image.read(bytes, 0, bytes.length, start));
  if (error !== null) throw new Bug(`${when}: reading ${start} to ${end}, which is not damaged: ${error.message}`);
  if (Buffer.compare(bytes, content.subarray(start, end)) === 0) return;
  const at = start + bytes.findIndex((byte, i) => byte !== content[start + i]);
  throw new Bug(`${when}: byte ${at}, which is not damaged, is ${bytes[at - start]} instead of ${content[at]}`);
}

/** Where the disk of a mutant is compared, which other mutants have elsewhere. */
class Look {
  /** ranges of the disk that were changed */
  changed = [];

  constructor({ content, map }, random) {
    this.size = content.length;
    this.borders = map.clusterSize;
    this.isWhole = this.size <= WHOLE || random() < 1 / 8;
    this.spots = this.isWhole ? [] : Array.from({ length: 8 }, () => Math.floor(random() * this.size));
  }

  /** The pieces in [start, end), in order: what was changed, both sides of the borders of clusters, and spots anywhere. */
  piecesOf(start, end) {
    if (end <= start) return [];
    if (this.isWhole) return [[start, end]];
    const wanted = [...this.changed, ...this.spots.map((spot) => [spot, spot])];
    for (let border = 0; border <= this.size; border += this.borders) wanted.push([border, border]);
    wanted.push([start, start], [end, end]);
    const pieces = [];
    for (const [from, to] of wanted.sort((a, b) => a[0] - b[0])) {
      const piece = [Math.max(start, from - MARGIN), Math.min(end, to + MARGIN)];
      const last = pieces.at(-1);
      if (piece[1] <= piece[0]) continue;
      if (last !== undefined && last[1] >= piece[0]) last[1] = Math.max(last[1], piece[1]);
      else pieces.push(piece);
    }
    return pieces;
  }
}

/** A copy of the content of the disk that follows what is done to it. */
function modelOf({ content }) {
  const model = modelBuffer.subarray(0, content.length);
  content.copy(model);
  return model;
}

/** Reads and maps a disk of any size, in pieces, and does not mind damage. */
function lookAround(image, random) {
  const size = image.virtualSize();
  const buffer = scratch.subarray(0, 128 * 1024);
  const spots = new Set([0, Math.max(0, size - SPOT), Math.floor(random() * size)]);
  for (const spot of spots) {
    const end = Math.min(size, spot + SPOT);
    for (let at = spot; at < end; at += buffer.length) {
      refusal('a read', () => image.read(buffer, 0, Math.min(buffer.length, end - at), at));
    }
  }
  for (let at = 0, n = 0; at < size && n < MAX_EXTENTS; n++) {
    let extent = null;
    if (refusal('map', () => (extent = image.map(at, Math.min(size - at, 2 ** 40)))) !== null) {
      at += image.clusterSize;
      continue;
    }
    if (!(extent.length > 0)) throw new Bug(`map at ${at} gives ${JSON.stringify(extent)}`);
    at = extent.start + extent.length;
  }
  refusal('details', () => image.details());
  for (const snapshot of openSnapshots(image)) {
    const end = snapshot.virtualSize();
    for (const spot of [0, Math.max(0, end - buffer.length), Math.floor(random() * end)]) {
      const length = Math.min(buffer.length, end - spot);
      if (length > 0) refusal('a read of a snapshot', () => snapshot.read(buffer, 0, length, spot));
    }
    for (let at = 0, n = 0; at < end && n < MAX_EXTENTS; n++) {
      let run = null;
      const error = refusal('a search in a snapshot', () => (run = snapshot.mapContent(at, end - at)));
      if (error === null && !(run.length > 0)) throw new Bug(`a search in a snapshot gives ${JSON.stringify(run)}`);
      at += run?.length ?? image.clusterSize;
    }
  }
}

/** The first of them, each by an object of its own. */
function openSnapshots({ snapshots }) {
  return (snapshots?.list ?? []).slice(0, MAX_SNAPSHOTS).map((_, position) => snapshots.open(position));
}

/** The first bytes of each snapshot; null for one that cannot be read. */
function snapshotContents(image) {
  return openSnapshots(image).map((snapshot) => {
    const bytes = Buffer.alloc(Math.min(snapshot.virtualSize(), SPOT));
    return refusal('a read of a snapshot', () => snapshot.read(bytes, 0, bytes.length, 0)) === null ? bytes : null;
  });
}

/** What the disk becomes changes no snapshot that could be read before. */
function expectSnapshots(when, image, wanted) {
  for (const [position, bytes] of snapshotContents(image).entries()) {
    const before = wanted[position];
    if (before === null || (bytes !== null && Buffer.compare(bytes, before) === 0)) continue;
    throw new Bug(`${when}: snapshot ${position} ${bytes === null ? 'cannot be read any more' : 'has changed'}`);
  }
}

/** Changes a disk that was opened for writing, and the model of it, if there is one. */
function change(image, content, look, random) {
  const size = image.virtualSize();
  if (size === 0) return;
  for (let n = 0; n < 8; n++) {
    const at = Math.floor(random() * (random() < 0.8 ? Math.min(size, LOOKED_AT) : size));
    const length = Math.max(1, Math.min(size - at, Math.floor(random() * (random() < 0.7 ? 5000 : 60_000))));
    const way = random();
    const byte = way < 0.6 ? 1 + Math.floor(random() * 255) : 0;
    const act = () => {
      if (way < 0.6) image.write(written.fill(byte, 0, length), 0, length, at);
      else if (way < 0.75) image.writeZeroes(at, length);
      else if (way < 0.9) image.discard(at, length);
      else image.flush();
    };
    const error = refusal('a change', act);
    if (way >= 0.9) continue;
    look.changed.push([at, at + length]);
    if (error !== null) return { stopped: [at, at + length] };
    content?.fill(byte, Math.min(at, content.length), Math.min(at + length, content.length));
  }
  return { stopped: null };
}

/** What was done to a counted file, besides reading it and making it durable. */
function isChanged({ calls }) {
  return Object.entries(calls).some(([operation, count]) => count > 0 && operation !== 'read' && operation !== 'sync');
}

/** Every use of one damaged image. @returns how often it was opened to read, opened for writing, and repaired */
function examine(subject, mutant, random) {
  const { plug, content } = subject;
  const look = new Look(subject, random);
  const { file, beside, affected, mustOpen } = mutant;
  const checkOf = (target, others, repair) => {
    let report = null;
    const options = { repair, log: () => undefined, openExtent: others.opener };
    const error = refusal(`check -r ${repair}`, () => (report = plug.check(target, options)));
    return { report, error };
  };
  refusal('probe', () => recognizedName(endsOf(file)));
  refusal('info', () => plug.inspect(file));

  const looking = new CountingHostFile(file.clone(true));
  const others = beside.map((each) => new CountingHostFile(each.clone(true)));
  let first = { report: null, error: null };
  if (plug.check !== undefined) first = checkOf(looking, others, 'none');
  let reader = null;
  const refused = refusal('a read-only open', () => (reader = subject.open(looking, true, others)));
  if (reader !== null) {
    expectContent('read-only', reader, content, affected, look);
    lookAround(reader, random);
    refusal('close', () => reader.close());
  } else if (mustOpen) throw new Bug(`read-only open refused: ${refused.message}`);
  if ([looking, ...others.files].some(isChanged)) throw new Bug('a read-only open or a check has changed the image');

  const read = reader === null ? 0 : 1;
  const seed = random() * 2 ** 32;
  if (plug.can.write) openWithForgedMark(subject, mutant, file.clone(), seed);
  const opened = plug.can.write ? openForWriting(subject, mutant, file.clone(), random) : 0;
  const repaired = plug.check !== undefined && repair(subject, mutant, file.clone(), checkOf, first, look) ? 1 : 0;
  return { read, opened, repaired };
}

function openForWriting(subject, { affected, beside }, file, random) {
  const counting = new CountingHostFile(file);
  const others = beside.map((each) => each.clone());
  const countings = others.map((each) => new CountingHostFile(each));
  let image = null;
  const refused = refusal('a read-write open', () => (image = subject.open(counting, false, countings)));
  if (refused !== null) {
    if ([counting, ...countings.files].some(isChanged))
      throw new Bug(`a failed open has changed the image: ${refused.message}`);
    return 0;
  }
  const look = new Look(subject, random);
  expectContent('read-write', image, subject.content, affected, look);
  const model = modelOf(subject);
  const snapshots = snapshotContents(image);
  const done = change(image, model, look, random);
  expectSnapshots('after changes', image, snapshots);
  // what was replaced is free after two flushes, and new clusters go there
  for (let n = 0; n < 2; n++) refusal('flush', () => image.flush());
  const more = done?.stopped === null ? change(image, model, look, random) : done;
  expectSnapshots('after two flushes', image, snapshots);
  const around = affected === 'all' || more?.stopped == null ? affected : [...affected, more.stopped];
  expectContent('after changes', image, model, around, look);
  const size = image.virtualSize();
  refusal('flush', () => image.flush());
  if (random() < 0.2) refusal('resize', () => image.resize(Math.floor((size * random()) / 512) * 512));
  const failure = image.failure();
  const closed = refusal('close', () => image.close());
  if (failure !== null || closed !== null || subject.plug.check === undefined) return 1;
  // clusters that two entries shared part without a new COPIED flag: a finding of check, and no danger
  const findings = [];
  const log = (sentence) => findings.push(sentence);
  const unchecked = refusal('check', () =>
    subject.plug.check(file, { repair: 'none', log, openExtent: others.opener }),
  );
  if (unchecked !== null) throw new Bug(`the image that was left behind is not checked: ${unchecked.message}`);
  const wrong = findings.find((finding) => finding.startsWith('ERROR') && !finding.includes('COPIED'));
  if (wrong !== undefined) throw new Bug(`the image that was left behind: ${wrong}`);
  let next = null;
  const again = refusal('the next open', () => (next = subject.open(file, false, others)));
  if (again !== null) throw new Bug(`the image that was left behind is not opened: ${again.message}`);
  if (next.virtualSize() === size) expectContent('the next time', next, model, around, look);
  return 1;
}

/** Somebody vouches for an image that is damaged: it is not walked. What it then loses is lost, but it ends, and says why. */
function openWithForgedMark(subject, { affected, beside }, file, seed) {
  const random = seededRandom(seed);
  const allocatedClusters = Math.floor((random() * subject.content.length) / 65536);
  const closedFacts = { allocatedClusters, free: random() < 0.5 ? [] : [[0, 1 + Math.floor(random() * 100)]] };
  let image = null;
  refusal('an open with a forged mark', () => {
    image = subject.open(
      file,
      false,
      beside.map((each) => each.clone()),
      closedFacts,
    );
  });
  if (image === null) return;
  const look = new Look(subject, random);
  expectContent('with a forged mark', image, subject.content, affected, look);
  lookAround(image, random);
  change(image, null, look, random);
  refusal('flush', () => image.flush());
  refusal('close', () => image.close());
}

/**
 * A repair ends, a second one finds nothing more, and what was not damaged reads as before.
 * @returns whether there was something to repair, and nothing is left
 */
function repair(subject, { affected, beside }, file, checkOf, first, look) {
  const others = beside.map((each) => each.clone());
  const { report, error } = checkOf(file, others, 'all');
  if (report === null) {
    if (first.report !== null && first.report.corruptions === 0 && first.report.leaks === 0) {
      throw new Bug(`a check finds nothing and a repair fails: ${error.message}`);
    }
    return false;
  }
  const again = checkOf(file, others, 'none');
  const all =
    report.corruptions === report.corruptionsFixed && report.leaks === report.leaksFixed && report.checkErrors === 0;
  if (all && (again.report === null || again.report.corruptions > 0 || again.report.leaks > 0)) {
    throw new Bug(`a repair that mended everything leaves ${JSON.stringify(again.report ?? again.error.message)}`);
  }
  let image = null;
  const refused = refusal('an open after the repair', () => (image = subject.open(file.clone(true), true, others)));
  if (image !== null) expectContent('after the repair', image, subject.content, affected, look);
  else if (affected !== 'all') throw new Bug(`read-only open refused after the repair: ${refused.message}`);
  return all && report.corruptions + report.leaks > 0;
}

/** Draws mutants and judges those that were not judged before. */
class Run {
  counts = { distinct: 0, read: 0, opened: 0, repaired: 0 };
  progress = new Float64Array(1);
  tooLarge = false;
  lookedAt = 0;

  constructor({ subjects, seed, maxRssBytes, knownBytes }) {
    this.subjects = subjects.map((description, number) => new Subject(description, number));
    this.seed = seed;
    this.maxRssBytes = maxRssBytes;
    this.known = new KnownMutants(KNOWN, knownBytes);
    const largest = Math.max(...this.subjects.map(({ content }) => content.length));
    if (largest > scratch.length) scratch = Buffer.alloc(largest);
    modelBuffer = Buffer.alloc(largest);
  }

  async from(first, end) {
    this.tell(first);
    for (let index = first; index < end; index++) {
      if (index % TELL_EVERY === 0) this.tell(index);
      if (!this.take(index)) continue;
      this.counts.distinct++;
      if (this.counts.distinct - this.lookedAt < LOOK_EVERY) continue;
      await new Promise(setImmediate);
      this.lookAtMemory(index);
    }
    this.lookAtMemory(end - 1);
  }

  /** @returns whether this is a mutant that was not judged before */
  take(index) {
    const subject = subjectOf(this.subjects, index);
    const random = seededRandom(this.seed * 1_000_003 + index * 7919);
    const damage = subject.draw(random, Math.floor(random() * TURNS));
    if (!this.known.add(damage.key)) return false;
    this.tell(index);
    try {
      // what follows is drawn from the damage, so that equal mutants are equal runs
      const act = () => examine(subject, subject.mutant(damage), seededRandom(damage.key.low));
      const { read, opened, repaired } = reusingSharedMemory(act);
      this.counts.read += read;
      this.counts.opened += opened;
      this.counts.repaired += repaired;
    } catch (error) {
      if (!(error instanceof Bug)) throw error;
      process.send({ bug: `mutant ${index} of ${subject.name} (${damage.what()}): ${error.message}` });
    }
    return true;
  }

  tell(index) {
    this.progress[0] = index;
    writeSync(PROGRESS, this.progress, 0, this.progress.byteLength, 0);
  }

  /** What is measured is what an image makes the engine take, not what thousands of them have left behind. */
  lookAtMemory(index) {
    this.lookedAt = this.counts.distinct;
    globalThis.gc({ type: 'minor' });
    const peak = process.resourceUsage().maxRSS * 1024;
    if (peak <= this.maxRssBytes || this.tooLarge) return;
    this.tooLarge = true;
    const what = `the process has grown to ${Math.ceil(peak / 2 ** 20)} MiB`;
    process.send({ bug: `mutant ${index}, or one of the ${LOOK_EVERY} that were judged before it: ${what}` });
  }
}

process.on('message', async ({ from, to, ...job }) => {
  const run = new Run(job);
  // refusals are made by the dozen, and their stacks take a tenth of the time; a mutant that is run alone has them
  if (to - from > 1) Error.stackTraceLimit = 0;
  await run.from(from, to);
  const { maxRSS, systemCPUTime, userCPUTime } = process.resourceUsage();
  process.send({
    done: true,
    counts: run.counts,
    peakBytes: maxRSS * 1024,
    cpuMicroseconds: userCPUTime + systemCPUTime,
  });
  process.disconnect();
});
