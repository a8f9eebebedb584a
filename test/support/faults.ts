// Failing host operations. A workload runs once for every operation of the host file that it causes, and that operation
// fails: once or from then on, with EIO, ENOSPC or half-way through a write. Judged are the answers, what memory says
// afterwards, and the file when it is opened again by a program that has no such trouble.

import { guestOffset } from '../../src/bytes/offsets.ts';
import { ERRNO, ImgfuseError } from '../../src/errors/index.ts';
import type { WritableFormat, WritableImage } from '../../src/format/image-format.ts';
import type { MemoryHostFile } from './memory-file.ts';
import { besideIt, checkImage, type OpenMemoryOptions, openImage } from './memory-images.ts';
import { reusingSharedMemory } from './reused-memory.ts';
import { type GuestStep, type Prepared, runStep, SECTOR, SECTORS, SIZE } from './workloads.ts';
import { type FaultPlan, FaultyHostFile, type HostOperation } from './wrapping-files.ts';

export interface FaultKind {
  readonly name: string;
  readonly errno: number;
  /** a failing write transfers half of its sectors */
  readonly short: boolean;
  readonly always: boolean;
}

export const FAULT_KINDS: readonly FaultKind[] = [
  { name: 'EIO once', errno: ERRNO.EIO, short: false, always: false },
  { name: 'EIO from then on', errno: ERRNO.EIO, short: false, always: true },
  { name: 'ENOSPC once', errno: ERRNO.ENOSPC, short: false, always: false },
  { name: 'ENOSPC from then on', errno: ERRNO.ENOSPC, short: false, always: true },
  { name: 'a short write and EIO', errno: ERRNO.EIO, short: true, always: false },
  { name: 'a short write and ENOSPC', errno: ERRNO.ENOSPC, short: true, always: false },
];

/** The values that each sector may have; a sector that was never written has one. */
class SectorValues {
  private readonly content: Uint8Array;
  private readonly written = new Map<number, Set<number>>();

  constructor(content: Uint8Array) {
    this.content = content;
  }

  allows(sector: number, value: number): boolean {
    return this.written.get(sector)?.has(value) ?? this.content[sector] === value;
  }

  /** To be changed. */
  of(sector: number): Set<number> {
    let values = this.written.get(sector);
    if (values === undefined) {
      values = new Set([this.content[sector]!]);
      this.written.set(sector, values);
    }
    return values;
  }

  /** Takes over the sectors that were written in `other`. */
  assign(other: SectorValues): void {
    for (const [sector, values] of other.written) this.written.set(sector, new Set(values));
  }
}

/** Values that a sector may have: what the guest was told, and what it may not rely on. */
class Model {
  /** in memory */
  readonly now: SectorValues;
  /** in the file: what the last flush covered and all that came later */
  readonly kept: SectorValues;

  constructor(content: Uint8Array) {
    this.now = new SectorValues(content);
    this.kept = new SectorValues(content);
  }

  done(step: GuestStep, succeeded: boolean): void {
    if ('at' in step) {
      if (step.kind === 'preallocate' || step.kind === 'copyUp') return;
      for (let sector = step.at / SECTOR; sector < (step.at + step.length) / SECTOR; sector++) {
        this.kept.of(sector).add(step.value);
        const now = this.now.of(sector);
        if (succeeded) now.clear();
        now.add(step.value);
      }
    } else if (succeeded && step.kind !== 'maintain' && step.kind !== 'resize') {
      this.kept.assign(this.now);
    }
  }
}

/** Every position of one workload. @returns how many faults there were; throws what is wrong */
export function failEverywhere(
  format: WritableFormat,
  prepared: Prepared,
  steps: readonly GuestStep[],
  kind: FaultKind,
): number {
  let faults = 0;
  for (let position = 0; ; position++) {
    const outcome = reusingSharedMemory(() => failOnce(format, prepared, steps, kind, position));
    if (outcome === 'failed') faults++;
    if (outcome === 'no such change') return faults;
  }
}

function failOnce(
  format: WritableFormat,
  { start, beside: files, backing, content }: Prepared,
  steps: readonly GuestStep[],
  kind: FaultKind,
  position: number,
): 'failed' | 'cannot fail so' | 'no such change' {
  let changes = 0;
  let hit: HostOperation | null = null;
  let hasSpace = false;
  const file = start.clone();
  const beside = files.map((each) => each.clone());
  const plan: FaultPlan = (operation, _count, _offset, length) => {
    if (operation === 'read' || operation === 'punch-hole' || hasSpace) return null;
    const number = changes++;
    if (number < position || (number > position && !kind.always)) return null;
    // a full host does not fail a fdatasync, and nothing but a write can be short
    if (kind.errno === ERRNO.ENOSPC && (operation === 'sync' || operation === 'truncate')) return null;
    if (kind.short && operation !== 'write') return null;
    hit ??= operation;
    return { errno: kind.errno, transferred: kind.short ? Math.floor(length / 2 / SECTOR) * SECTOR : 0 };
  };
  const faulty = new FaultyHostFile(file, plan);
  const faultyBeside = beside.map((each) => new FaultyHostFile(each, plan));
  const where = (text: string) =>
    new Error(`${kind.name} at change ${position} (${hit}): ${text}; steps ${JSON.stringify(steps)}`);
  const model = new Model(content);
  let image: WritableImage;
  try {
    image = openImage(format, faulty, { backing, beside: faultyBeside, tableCacheBytes: 8192 });
  } catch (error) {
    if (hit === null) throw error;
    judgeFile(format, file, { backing, beside }, model.kept, where);
    return 'failed';
  }
  let failedBefore = false;
  for (const step of steps) {
    let succeeded = true;
    try {
      runStep(image, step);
    } catch (error) {
      succeeded = false;
      if (hit === null || !(error instanceof ImgfuseError)) throw where(`${(error as Error).stack}`);
    }
    model.done(step, succeeded);
    if (succeeded && failedBefore && step.kind === 'write') throw where('a write succeeded on a disk that had failed');
    failedBefore = image.failure() !== null;
    if (!succeeded) compare(image, model.now, where);
  }
  hasSpace = true;
  compare(image, model.now, where);
  if (kind.errno === ERRNO.ENOSPC && !kind.short) {
    if (image.failure() !== null) throw where(`a full host turned the disk read-only: ${image.failure()}`);
    const again = { kind: 'write', at: 0, length: 4096, value: 77 } as const;
    for (const step of [again, { kind: 'flush' } as const]) {
      runStep(image, step);
      model.done(step, true);
    }
  }
  if (hit === 'sync' && image.failure() === null) throw where('a failed fdatasync was forgotten');
  close(image, model, hit !== null, where);
  judgeFile(format, file, { backing, beside }, model.kept, where);
  if (hit !== null) return 'failed';
  return changes > position ? 'cannot fail so' : 'no such change';
}

function close(image: WritableImage, model: Model, wasHit: boolean, where: (text: string) => Error): void {
  const hadFailed = image.failure() !== null;
  try {
    image.close();
    if (hadFailed) throw where('a disk that had failed was closed as if it were clean');
    model.done({ kind: 'flush' }, true);
  } catch (error) {
    if (!wasHit || !(error instanceof ImgfuseError)) throw error;
  }
}

/** What a healthy program finds: leaks at worst or an image that says it is dirty, and afterwards nothing. */
function judgeFile(
  format: WritableFormat,
  file: MemoryHostFile,
  options: OpenMemoryOptions,
  legal: SectorValues,
  where: (text: string) => Error,
): void {
  if (format.check === undefined) return;
  const findings: string[] = [];
  const beside = besideIt(options.beside ?? []);
  const told = (sentence: string) => findings.push(sentence);
  const first = checkImage(format, file.clone(), { repair: 'none', log: told, ...beside });
  if (first.corruptions > 0 && !format.inspect(file, undefined, beside.openExtent).dirty)
    throw where(`left ${findings.join('; ')}`);
  const image = openImage(format, file, options);
  compare(image, legal, where);
  image.close();
  checkImage(format, file, { repair: 'leaks', log: () => undefined, ...beside });
  const second = checkImage(format, file, { repair: 'none', log: () => undefined, ...beside });
  if (second.corruptions + second.leaks > 0) throw where('the repaired image is not clean');
}

const SCRATCH = Buffer.alloc(SIZE);

function compare(image: WritableImage, legal: SectorValues, where: (text: string) => Error): void {
  image.read(SCRATCH.fill(0xee), 0, SIZE, guestOffset(0));
  for (let sector = 0; sector < SECTORS; sector++) {
    const value = SCRATCH[sector * SECTOR]!;
    if (legal.allows(sector, value)) continue;
    throw where(`sector ${sector} is ${value} and may be ${[...legal.of(sector)].join(' or ')}`);
  }
}
