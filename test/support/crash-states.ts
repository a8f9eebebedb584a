// The crash model: operations before the last completed fdatasync are durable; of the later ones any subset may have happened,
// the length of the file apart from its data, each write possibly torn at 512 bytes; two files lose their operations apart from
// each other.

import { hostOffset } from '../../src/bytes/offsets.ts';
import type { MemoryHostFile } from './memory-file.ts';
import { SECTOR } from './workloads.ts';
import type { RecordedOperation } from './wrapping-files.ts';

const ALL_SUBSETS_UP_TO = 10;
const RANDOM_SUBSETS = 64;
const TORN_SUBSETS = 16;

export interface CrashState {
  /** operations of the log that were begun */
  readonly moment: number;
  /** the file as it may be found; the caller may change it */
  readonly state: MemoryHostFile;
  readonly subset: Shown;
}

/** A subset says with toString() which operations it has. */
interface Shown {
  toString(): string;
}

/** The states that a file may be in when the power goes between two operations of `log`, which began with `start`. */
export function* crashStates(
  start: MemoryHostFile,
  log: readonly RecordedOperation[],
  random: () => number,
): Generator<CrashState> {
  for (const { moment, subset, build } of crashMoments([start], log, random)) {
    yield { moment, state: build()[0]!, subset };
  }
}

/** Each of them once: for what does not depend on the moment. */
export function* distinctCrashStates(
  start: MemoryHostFile,
  log: readonly RecordedOperation[],
  random: () => number,
): Generator<CrashState> {
  const seen = new Set<string>();
  for (const crash of crashStates(start, log, random)) {
    const key = crash.state.fingerprint();
    if (seen.has(key)) continue;
    seen.add(key);
    yield crash;
  }
}

export interface CrashMoment {
  readonly moment: number;
  readonly subset: Shown;
  /** the files as they may be found */
  readonly build: () => MemoryHostFile[];
}

/** The same for several files, whose operations are durable apart from each other. */
export function* crashMoments(
  starts: readonly MemoryHostFile[],
  log: readonly RecordedOperation[],
  random: () => number,
): Generator<CrashMoment> {
  const growing = growingWrites(starts, log);
  const durable = starts.map((start) => start.clone());
  let pending: RecordedOperation[] = [];
  for (let moment = 0; moment <= log.length; moment++) {
    const undone = pending.slice();
    // a state may be built later, when the log has gone on
    const before = durable.slice();
    for (const subset of subsets(undone.length, random)) {
      const build = () => {
        const states = before.map((file) => file.clone());
        for (const [i, operation] of undone.entries()) {
          if (!subset.has(i)) continue;
          apply(states[operation.file]!, operation, growing.has(operation), subset.torn === i ? random : null);
        }
        return states;
      };
      yield { moment, subset, build };
    }
    const next = log[moment];
    if (next === undefined) return;
    if (next.operation === 'sync') {
      durable[next.file] = durable[next.file]!.clone();
      for (const operation of pending.filter(({ file }) => file === next.file)) {
        apply(durable[next.file]!, operation, growing.has(operation), null);
      }
      pending = pending.filter(({ file }) => file !== next.file);
    } else {
      pending.push(next);
    }
  }
}

/** How many crashMoments() there are. */
export function countMoments(files: number, log: readonly RecordedOperation[]): number {
  const pending = new Array<number>(files).fill(0);
  let undone = 0;
  let count = countSubsets(0);
  for (const { operation, file } of log) {
    if (operation === 'sync') {
      undone -= pending[file]!;
      pending[file] = 0;
    } else {
      pending[file]!++;
      undone++;
    }
    count += countSubsets(undone);
  }
  return count;
}

/** The file after all of `log`, which began with `start`. */
export function replay(start: MemoryHostFile, log: readonly RecordedOperation[]): MemoryHostFile {
  const growing = growingWrites([start], log);
  const file = start.clone();
  for (const operation of log) apply(file, operation, growing.has(operation), null);
  return file;
}

/** Which of the pending operations happened; one of them may be torn. */
class Subset {
  /** index of the operation that is torn, or -1 */
  readonly torn: number;
  private readonly bits: readonly boolean[];

  constructor(bits: readonly boolean[], torn = -1) {
    this.bits = bits;
    this.torn = torn;
  }

  has(index: number): boolean {
    return this.bits[index]!;
  }

  toString(): string {
    return `${this.bits.map(Number).join('')}${this.torn < 0 ? '' : ` torn ${this.torn}`}`;
  }
}

function* subsets(count: number, random: () => number): Generator<Subset> {
  if (count <= ALL_SUBSETS_UP_TO) {
    for (let mask = 0; mask < 2 ** count; mask++) yield new Subset(fill(count, (index) => (mask & (1 << index)) !== 0));
  } else {
    for (let end = 0; end <= count; end++) yield new Subset(fill(count, (index) => index < end));
    for (let one = 0; one < count; one++) {
      yield new Subset(fill(count, (index) => index !== one));
      yield new Subset(fill(count, (index) => index === one));
    }
    for (let n = 0; n < RANDOM_SUBSETS; n++) yield new Subset(fill(count, () => random() < 0.5));
  }
  for (let n = 0; n < Math.min(count, TORN_SUBSETS); n++) {
    yield new Subset(
      fill(count, () => random() < 0.7),
      Math.floor(random() * count),
    );
  }
}

function fill(count: number, rule: (index: number) => boolean): boolean[] {
  const bits: boolean[] = [];
  for (let index = 0; index < count; index++) bits.push(rule(index));
  return bits;
}

/** How many subsets() there are. */
function countSubsets(count: number): number {
  const whole = count <= ALL_SUBSETS_UP_TO ? 2 ** count : count + 1 + 2 * count + RANDOM_SUBSETS;
  return whole + Math.min(count, TORN_SUBSETS);
}

/** The writes that made the file longer, as against those into a part that a truncate had added before. */
function growingWrites(starts: readonly MemoryHostFile[], log: readonly RecordedOperation[]): Set<RecordedOperation> {
  const growing = new Set<RecordedOperation>();
  const sizes = starts.map((start) => start.size());
  for (const operation of log) {
    if (operation.operation === 'truncate') sizes[operation.file] = operation.offset;
    const end = operation.offset + operation.length;
    if (operation.operation !== 'write' || end <= sizes[operation.file]!) continue;
    growing.add(operation);
    sizes[operation.file] = end;
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
