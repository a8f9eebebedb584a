// Simulated power cuts. A workload runs on a recording file; for every moment between two host operations the states that
// the disk may be in are built and judged. The crash model: operations before the last completed fdatasync are durable; of
// the later ones any subset may have happened, the length of the file apart from its data, each write possibly torn at 512
// bytes. The guest model: each sector reads the value of the last completed flush or one written since.

import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import type { Image, ImageFormat } from '../../src/format/image-format.ts';
import type { MemoryHostFile } from '../../src/host/memory-file.ts';
import { type RecordedOperation, RecordingHostFile } from '../../src/host/wrapping-files.ts';
import { openImage } from './memory-images.ts';

const SECTOR = 512;
const ALL_SUBSETS_UP_TO = 6;
const RANDOM_SUBSETS = 24;

export type GuestStep =
  | {
      readonly kind: 'write' | 'discard' | 'zero' | 'preallocate';
      readonly at: number;
      readonly length: number;
      readonly value: number;
    }
  | { readonly kind: 'flush' | 'maintain' | 'makeClean' };

export interface Workload {
  readonly format: ImageFormat;
  /** the image before the first step, closed clean */
  readonly start: MemoryHostFile;
  readonly backing: Image | null;
  /** value of each sector before the first step */
  readonly content: Uint8Array;
  readonly steps: readonly GuestStep[];
  /** the format promises that a crash leaves leaks at worst, without a dirty bit */
  readonly onlyLeaks?: boolean;
  /** what a crash leaves is marked dirty, so that the next read-write open gives the leaks back */
  readonly marksDirty?: boolean;
}

export interface Verdict {
  states: number;
  /** one sentence for each state that broke a promise */
  readonly failures: string[];
}

/** What the guest has asked for up to a position of the host log. */
interface GuestEvent {
  readonly step: GuestStep;
  readonly started: number;
  readonly ended: number;
}

/** Runs the workload once and judges every crash state. @param random 0 <= x < 1, seeded by the caller */
export function cutPower(workload: Workload, random: () => number, verdict: Verdict): void {
  const { log, events } = record(workload);
  let legal: Set<number>[] = [];
  let legalAt = -1;
  for (const { moment, state, subset } of crashStates(workload.start, log, random)) {
    if (moment !== legalAt) legal = legalSectors(workload.content, events, moment);
    legalAt = moment;
    verdict.states++;
    const problem = judge(workload, state, legal, random);
    if (problem !== null) {
      verdict.failures.push(
        `moment ${moment} of ${log.length}, subset ${subset}: ${problem}; steps ${JSON.stringify(workload.steps)}`,
      );
    }
  }
}

export interface CrashState {
  /** operations of the log that were begun */
  readonly moment: number;
  /** the file as it may be found; the caller may change it */
  readonly state: MemoryHostFile;
  readonly subset: string;
}

/** The states that a file may be in when the power goes between two operations of `log`, which began with `start`. */
export function* crashStates(
  start: MemoryHostFile,
  log: readonly RecordedOperation[],
  random: () => number,
): Generator<CrashState> {
  const growing = growingWrites(start.size(), log);
  const durable = start.clone();
  let firstPending = 0;
  for (let moment = 0; moment <= log.length; moment++) {
    const pending = log.slice(firstPending, moment);
    for (const subset of subsets(pending.length, random)) {
      const state = durable.clone();
      pending.forEach((operation, i) => {
        if (subset.has(i)) apply(state, operation, growing.has(operation), subset.torn === i ? random : null);
      });
      yield { moment, state, subset: subset.toString() };
    }
    if (log[moment]?.operation === 'sync') {
      for (const operation of pending) apply(durable, operation, growing.has(operation), null);
      firstPending = moment + 1;
    }
  }
}

function record({ format, start, backing, steps }: Workload): { log: RecordedOperation[]; events: GuestEvent[] } {
  const file = new RecordingHostFile(start.clone());
  const image = openImage(format, file, { backing, tableCacheBytes: 8192 });
  const events: GuestEvent[] = [];
  for (const step of steps) {
    const started = file.log.length;
    runStep(image, step);
    events.push({ step, started, ended: file.log.length });
  }
  image.close();
  return { log: file.log, events };
}

function runStep(image: Image, step: GuestStep): void {
  switch (step.kind) {
    case 'write':
      image.write(new Uint8Array(step.length).fill(step.value), 0, step.length, guestOffset(step.at));
      break;
    case 'discard':
      image.discard(guestOffset(step.at), step.length);
      break;
    case 'zero':
      image.writeZeroes(guestOffset(step.at), step.length);
      break;
    case 'preallocate':
      image.preallocate(guestOffset(step.at), step.length);
      break;
    case 'flush':
      image.flush();
      break;
    case 'maintain':
      image.maintain(Date.now() + 600);
      break;
    case 'makeClean':
      image.makeClean();
  }
}

/** The value written last, for each set of legal values. */
const last = new WeakMap<Set<number>, number>();

/** For each sector the values that may be read after a crash at `moment`. */
function legalSectors(content: Uint8Array, events: readonly GuestEvent[], moment: number): Set<number>[] {
  const legal = Array.from(content, (value) => new Set([value]));
  for (const { step, started, ended } of events) {
    if (started > moment) break;
    if ('at' in step && step.kind !== 'preallocate') {
      for (let at = step.at; at < step.at + step.length; at += SECTOR) {
        const values = legal[at / SECTOR]!;
        values.add(step.kind === 'write' ? step.value : 0);
        last.set(values, step.kind === 'write' ? step.value : 0);
      }
    } else if ((step.kind === 'flush' || step.kind === 'makeClean') && ended <= moment) {
      for (const values of legal) {
        const value = last.get(values) ?? [...values][0]!;
        values.clear();
        values.add(value);
        last.set(values, value);
      }
    }
  }
  return legal;
}

interface Subset {
  has(index: number): boolean;
  /** index of the operation that is torn, or -1 */
  readonly torn: number;
  toString(): string;
}

function* subsets(count: number, random: () => number): Generator<Subset> {
  const make = (bits: readonly boolean[], torn = -1): Subset => ({
    has: (index) => bits[index]!,
    torn,
    toString: () => `${bits.map(Number).join('')}${torn < 0 ? '' : ` torn ${torn}`}`,
  });
  const fill = (rule: (index: number) => boolean) => Array.from({ length: count }, (_, index) => rule(index));
  if (count <= ALL_SUBSETS_UP_TO) {
    for (let mask = 0; mask < 2 ** count; mask++) yield make(fill((index) => (mask & (1 << index)) !== 0));
  } else {
    for (let end = 0; end <= count; end++) yield make(fill((index) => index < end));
    for (let one = 0; one < count; one++) {
      yield make(fill((index) => index !== one));
      yield make(fill((index) => index === one));
    }
    for (let n = 0; n < RANDOM_SUBSETS; n++) yield make(fill(() => random() < 0.5));
  }
  for (let n = 0; n < Math.min(count, 4); n++)
    yield make(
      fill(() => random() < 0.7),
      Math.floor(random() * count),
    );
}

/** The writes that made the file longer, as against those into a part that a truncate had added before. */
function growingWrites(startSize: number, log: readonly RecordedOperation[]): Set<RecordedOperation> {
  const growing = new Set<RecordedOperation>();
  let size = startSize;
  for (const operation of log) {
    if (operation.operation === 'truncate') size = operation.offset;
    if (operation.operation !== 'write' || operation.offset + operation.length <= size) continue;
    growing.add(operation);
    size = operation.offset + operation.length;
  }
  return growing;
}

/** @param torn when given, only the first sectors of a write arrive */
function apply(file: MemoryHostFile, operation: RecordedOperation, grows: boolean, torn: (() => number) | null): void {
  const { offset, length, data } = operation;
  switch (operation.operation) {
    case 'write': {
      const sectors = Math.ceil(length / SECTOR);
      const part = torn === null ? length : Math.min(length, Math.floor(torn() * sectors) * SECTOR);
      // a write within the file does not depend on its length having grown: a file system that lost the growth lost the data
      const room = grows ? part : Math.max(0, Math.min(part, file.size() - offset));
      file.write(data!, 0, room, hostOffset(offset));
      break;
    }
    case 'truncate':
      file.truncate(offset);
      break;
    case 'punch-hole':
    case 'zero-range':
      file.punchHole(hostOffset(offset), length);
      break;
    default:
  }
}

/** Every oracle. @returns what is wrong, or null */
function judge(
  workload: Workload,
  state: MemoryHostFile,
  legal: readonly Set<number>[],
  random: () => number,
): string | null {
  const { format, backing } = workload;
  try {
    const readOnly = new RecordingHostFile(state.clone(true));
    openImage(format, readOnly, { backing, readOnly: true }).close();
    if (readOnly.log.length > 0) return 'a read-only open changed the file';

    const ordered = workload.onlyLeaks === true;
    if (ordered) {
      const { corruptions, findings } = checkOf(format, state);
      if (corruptions > 0) return `a crash left ${findings.join('; ')}`;
    }
    let image = openImage(format, state, { backing });
    const content = new Uint8Array(legal.length);
    const wrong = compare(image, legal, content);
    if (wrong !== null) return wrong;
    // three further writes must not reach anything else: the oracle that finds a host cluster with two owners
    for (let n = 0; n < 3; n++) {
      const sector = Math.floor(random() * legal.length);
      image.write(new Uint8Array(SECTOR).fill(250 + n), 0, SECTOR, guestOffset(sector * SECTOR));
      content[sector] = 250 + n;
    }
    image.close();
    if (ordered && workload.marksDirty !== true) format.check(state, { repair: 'leaks', log: () => undefined });
    const { corruptions, leaks, findings } = checkOf(format, state);
    if (corruptions + leaks > 0) return `after repair and close the check finds ${findings.join('; ')}`;
    image = openImage(format, state, { backing });
    return compare(
      image,
      Array.from(content, (value) => new Set([value])),
      content,
    );
  } catch (error) {
    return `${(error as Error).stack}`;
  }
}

function checkOf(
  format: ImageFormat,
  file: MemoryHostFile,
): { corruptions: number; leaks: number; findings: string[] } {
  const findings: string[] = [];
  const { corruptions, leaks } = format.check(file, { repair: 'none', log: (sentence) => findings.push(sentence) });
  return { corruptions, leaks, findings };
}

/** Reads the disk; `content` receives the value of each sector. */
function compare(image: Image, legal: readonly Set<number>[], content: Uint8Array): string | null {
  const bytes = Buffer.alloc(legal.length * SECTOR);
  image.read(bytes, 0, bytes.length, guestOffset(0));
  for (let sector = 0; sector < legal.length; sector++) {
    const start = sector * SECTOR;
    const value = bytes[start]!;
    content[sector] = value;
    if (!legal[sector]!.has(value))
      return `sector ${sector} reads ${value}; legal are ${[...legal[sector]!].join(', ')}`;
    if (bytes.compare(UNIFORM[value]!, 0, SECTOR, start, start + SECTOR) !== 0) return `sector ${sector} is torn`;
  }
  return null;
}

/** A sector full of each value. */
const UNIFORM = Array.from({ length: 256 }, (_, value) => Buffer.alloc(SECTOR, value));
