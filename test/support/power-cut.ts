// Simulated power cuts. A workload runs on a recording file; for every moment between two host operations the states that
// the disk may be in (crash-states.ts) are judged. The guest model: each sector reads the value of the last completed flush or
// one written since. A process may be killed before: the host has all that it wrote, and none of it is durable for that.

import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import type { ImageDetails, WritableFormat, WritableImage } from '../../src/format/image-format.ts';
import { FIELD } from '../../src/format/qcow2/header/header.ts';
import { readHeader } from '../../src/format/qcow2/header/read-header.ts';
import { readSnapshotTable } from '../../src/format/qcow2/header/snapshot-table.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { countMoments, crashMoments } from './crash-states.ts';
import { findIllegal, LegalValues } from './legal-values.ts';
import type { MemoryHostFile } from './memory-file.ts';
import { besideIt, checkImage, openImage } from './memory-images.ts';
import { put32, put64 } from './qcow2-bytes.ts';
import { reusingSharedMemory } from './reused-memory.ts';
import { seededCrypto } from './seeded-crypto.ts';
import { areLegal, keyOf, type Reads, readsOf, SoundImages } from './sound-images.ts';
import { AREAS, type GuestStep, type Prepared, runStep, SECTOR, SECTORS } from './workloads.ts';
import { type RecordedOperation, RecordingHostFile } from './wrapping-files.ts';

/** One state out of so many is read whole; of the others only what the workload touches. */
const READ_WHOLE = 32;
/** One state out of so many loses its power again while it is repaired. */
const CUT_REPAIR = 16;
/** After so many moments other sectors get the further writes: equal repaired images of moments that are close stay equal. */
const STRETCH = 16;
/** Of the identities that images get while they are judged: equal images stay equal. */
const IDENTITIES = 0x1d;

export interface Workload extends Prepared {
  readonly format: WritableFormat;
  readonly steps: readonly GuestStep[];
  /** before this step the process is killed, and the image is opened by the next one */
  readonly killBefore?: number;
  /** somebody repairs the image in between */
  readonly repairAfterKill?: boolean;
  /** the format promises that a crash leaves leaks at worst, without a dirty bit */
  readonly onlyLeaks: boolean;
  /** but for an image that is marked dirty, where the next read-write open counts anew */
  readonly marksDirty: boolean;
  /** a close after a crash leaves no leaks either, although nothing but the walk of the open has found them */
  readonly reclaimsLeaks?: boolean;
  /** a program that is content with leaks has written it: an image that it calls clean may have some */
  readonly leavesLeaks?: boolean;
  /** what else holds of the files of every state, as they are found; null, or what is wrong */
  readonly invariant?: (files: readonly MemoryHostFile[]) => string | null;
}

export interface Verdict {
  states: number;
  /** states that no other one of their workload equals: the others are only compared with what they read */
  distinct: number;
  /** states whose sectors read what they must not */
  lost: number;
  /** states that repair does not mend in one pass */
  unrepaired: number;
  /** states in which something else is wrong: tables, a changed file, an open that fails */
  corrupt: number;
  /** one sentence for each of these */
  readonly failures: string[];
}

export function noVerdict(): Verdict {
  return { states: 0, distinct: 0, lost: 0, unrepaired: 0, corrupt: 0, failures: [] };
}

/** What the guest has asked for up to a position of the host log. */
export interface GuestEvent {
  readonly step: GuestStep | { readonly kind: 'kill' };
  readonly started: number;
  readonly ended: number;
}

/** What is wrong with a state. */
export interface Fault {
  readonly kind: 'lost' | 'unrepaired' | 'corrupt';
  readonly text: string;
}

/**
 * Runs the workload once and judges its crash states. @param random 0 <= x < 1, seeded by the caller
 * @param most states that are judged, about; chosen at random when there are more
 */
export function cutPower(
  workload: Workload,
  random: () => number,
  verdict: Verdict,
  most = Number.POSITIVE_INFINITY,
): void {
  const { log, events } = reusingSharedMemory(() => record(workload));
  const starts = [workload.start, ...workload.beside];
  const count = countMoments(starts.length, log);
  let legal = new LegalValues(workload.content);
  let legalAt = -1;
  /** what may be read at this moment, of what was read */
  let legalReads = new Set<Reads>();
  const sound = new SoundImages();
  const known = { ended: new SoundImages(), sectors: furtherSectors(random) };
  for (const { moment, subset, build } of crashMoments(starts, log, random)) {
    if (count > most && random() * count >= most) continue;
    if (moment !== legalAt) {
      legal = legalSectors(workload.content, events, moment);
      legalReads = new Set();
      if (Math.floor(moment / STRETCH) !== Math.floor(legalAt / STRETCH)) known.sectors = furtherSectors(random);
    }
    legalAt = moment;
    verdict.states++;
    const files = build();
    const key = keyOf(files);
    const reads = sound.find(key);
    if (reads !== undefined && (legalReads.has(reads) || areLegal(reads, legal))) {
      legalReads.add(reads);
      continue;
    }
    const content = new Uint8Array(SECTORS);
    const number = verdict.distinct++;
    const fault = seededCrypto(IDENTITIES, () =>
      reusingSharedMemory(() => judge(workload, files, legal, random, number, { ...known, reads: content })),
    );
    if (fault === null) {
      sound.add(key, readsOf(content));
      continue;
    }
    verdict[fault.kind]++;
    const kill = workload.killBefore === undefined ? '' : `, killed before step ${workload.killBefore}`;
    verdict.failures.push(
      `moment ${moment} of ${log.length}, subset ${subset}${kill}: ${fault.text}; steps ${JSON.stringify(workload.steps)}`,
    );
  }
}

function record(workload: Workload): { log: RecordedOperation[]; events: GuestEvent[] } {
  const log: RecordedOperation[] = [];
  const { closedFacts, format, start, backing, steps } = workload;
  const file = new RecordingHostFile(start.clone(), log, 0);
  const beside = workload.beside.map((each, i) => new RecordingHostFile(each.clone(), log, i + 1));
  const options = { backing, beside, tableCacheBytes: 8192 };
  let image = openImage(format, file, { ...options, closedFacts });
  const events: GuestEvent[] = [];
  for (const [n, step] of steps.entries()) {
    if (n === workload.killBefore) {
      events.push({ step: { kind: 'kill' }, started: log.length, ended: log.length });
      if (workload.repairAfterKill === true)
        checkImage(format, file, { repair: 'all', log: () => undefined, ...besideIt(beside) });
      image = openImage(format, file, options);
    }
    const started = log.length;
    runStep(image, step);
    events.push({ step, started, ended: log.length });
  }
  image.close();
  return { log, events };
}

/** For each sector the values that may be read after a crash at `moment`. */
export function legalSectors(content: Uint8Array, events: readonly GuestEvent[], moment: number): LegalValues {
  const legal = new LegalValues(content);
  for (const { step, started, ended } of events) {
    if (started > moment) break;
    if ('at' in step && step.kind !== 'preallocate' && step.kind !== 'copyUp') {
      const value = step.kind === 'write' ? step.value : 0;
      for (let at = step.at; at < step.at + step.length; at += SECTOR) legal.add(at / SECTOR, value);
    } else if ((step.kind === 'flush' || step.kind === 'makeClean') && ended <= moment) {
      legal.flush();
    } else if (step.kind === 'kill') {
      legal.kill();
    }
  }
  return legal;
}

/** What judge() may know of the other states of a workload. */
export interface Known {
  /** images that were sound at the end, after further writes: everything that is asked then is the same in equal ones */
  readonly ended?: SoundImages;
  /** of the further writes */
  readonly sectors: readonly number[];
  /** receives the value of each sector that workloads touch */
  readonly reads?: Uint8Array;
}

/** Three further writes to the areas that workloads touch. */
function furtherSectors(random: () => number): readonly number[] {
  return [0, 1, 0].map((area) => {
    const { first, end } = AREAS[area]!;
    return first + Math.floor(random() * (end - first));
  });
}

/**
 * Every oracle. @param number of this state, to choose the dearer ones. @returns what is wrong, or null
 */
export function judge(
  workload: Workload,
  [state, ...beside]: readonly MemoryHostFile[],
  legal: LegalValues,
  random: () => number,
  number: number,
  known: Known = { sectors: furtherSectors(random) },
): Fault | null {
  try {
    if (workload.format.check === undefined) return judgeContent(workload, state!, beside, legal, number, known);
    const broken = workload.invariant?.([state!, ...beside]) ?? null;
    if (broken !== null) return { kind: 'corrupt', text: broken };
    const log: RecordedOperation[] = [];
    const readOnly = (file: MemoryHostFile) => new RecordingHostFile(file, log, 0, true);
    open(workload, readOnly(state!), beside.map(readOnly), true).close();
    if (log.length > 0) return { kind: 'corrupt', text: 'a read-only open changed the file' };
    if (workload.onlyLeaks && !(workload.marksDirty && inspect(workload, state!, beside).dirty)) {
      const { corruptions, findings } = checkOf(workload.format, state!, beside);
      if (corruptions > 0) return { kind: 'corrupt', text: `a crash left ${findings.join('; ')}` };
    }
    if (number % CUT_REPAIR === 0) {
      const again = cutRepair(workload, state!, beside, legal, random, number, known);
      if (again !== null) return { ...again, text: `after a second cut, during the repair: ${again.text}` };
    }
    return judgeContent(workload, state!, beside, legal, number, known);
  } catch (error) {
    return { kind: 'corrupt', text: `${(error as Error).stack}` };
  }
}

/** The power goes again at some moment of the read-write open. */
function cutRepair(
  workload: Workload,
  state: MemoryHostFile,
  beside: readonly MemoryHostFile[],
  legal: LegalValues,
  random: () => number,
  number: number,
  { ended, sectors }: Known,
): Fault | null {
  const log: RecordedOperation[] = [];
  const repairing = (file: MemoryHostFile, i: number) => new RecordingHostFile(file.clone(), log, i);
  open(
    workload,
    repairing(state, 0),
    beside.map((file, i) => repairing(file, i + 1)),
    false,
  );
  const moments = [...crashMoments([state, ...beside], log, random)];
  const [chosen, ...others] = moments[Math.floor(random() * moments.length)]!.build();
  return judgeContent(workload, chosen!, others, legal, number, ended === undefined ? { sectors } : { ended, sectors });
}

function judgeContent(
  workload: Workload,
  state: MemoryHostFile,
  beside: readonly MemoryHostFile[],
  legal: LegalValues,
  number: number,
  { ended, sectors, reads }: Known,
): Fault | null {
  const whole = number % READ_WHOLE === 0;
  const image = open(workload, state, beside, false);
  const content = new Uint8Array(SECTORS);
  const wrong = compare(image, legal, content, whole);
  if (wrong !== null) return { kind: 'lost', text: wrong };
  reads?.set(content);
  // three further writes must not reach anything else: the oracle that finds a host cluster with two owners
  for (const [n, sector] of sectors.entries()) {
    image.write(new Uint8Array(SECTOR).fill(250 + n), 0, SECTOR, guestOffset(sector * SECTOR));
    content[sector] = 250 + n;
  }
  image.close();
  if (ended === undefined) return judgeEnd(workload, state, beside, content, whole);
  const key = keyOf([state, ...beside]);
  const written = readsOf(content);
  if (!whole && ended.find(key) === written) return null;
  const fault = judgeEnd(workload, state, beside, content, whole);
  if (fault === null) ended.add(key, written);
  return fault;
}

/** Of an image that was repaired, written to and closed. @param content the value of each sector that was read */
function judgeEnd(
  workload: Workload,
  state: MemoryHostFile,
  beside: readonly MemoryHostFile[],
  content: Uint8Array,
  whole: boolean,
): Fault | null {
  const { format } = workload;
  if (format.check !== undefined) {
    if ((workload.onlyLeaks && workload.reclaimsLeaks !== true) || workload.leavesLeaks === true)
      checkImage(format, state, { repair: 'leaks', log: () => undefined, ...besideIt(beside) });
    const { corruptions, leaks, findings } = checkOf(format, state, beside);
    if (corruptions + leaks > 0) {
      return { kind: 'unrepaired', text: `after repair and close the check finds ${findings.join('; ')}` };
    }
  }
  const image = open(workload, state, beside, true);
  const changed = compare(image, new LegalValues(content), content, whole);
  if (changed !== null) return { kind: 'lost', text: `after three further writes ${changed}` };
  if (workload.isRaw && !holds(beside[0]!, content))
    return { kind: 'corrupt', text: 'the raw data file is not the disk' };
  if (workload.snapshot === null) return null;
  const reverted = open(workload, revertedToSnapshot(state), beside, true);
  const lost = compare(reverted, new LegalValues(workload.snapshot), content, whole);
  return lost === null ? null : { kind: 'lost', text: `in the snapshot ${lost}` };
}

/** The same file with the tables of its first snapshot for those of the disk. */
function revertedToSnapshot(state: MemoryHostFile): MemoryHostFile {
  const file = state.clone();
  const { l1TableOffset, l1Size, diskSize } = readSnapshotTable(file, readHeader(file, { readOnly: true }))
    .snapshots[0]!;
  put64(file, FIELD.size, diskSize);
  put32(file, FIELD.l1Size, l1Size);
  put64(file, FIELD.l1TableOffset, l1TableOffset);
  return file.clone(true);
}

function open(
  { format, backing }: Workload,
  file: HostFile,
  beside: readonly HostFile[],
  readOnly: boolean,
): WritableImage {
  return openImage(format, file, { backing, readOnly, beside, tableCacheBytes: 8192 });
}

function inspect({ format }: Workload, file: HostFile, beside: readonly HostFile[]): ImageDetails {
  return format.inspect(file, undefined, besideIt(beside).openExtent);
}

function checkOf(
  format: WritableFormat,
  file: MemoryHostFile,
  beside: readonly MemoryHostFile[],
): { corruptions: number; leaks: number; findings: string[] } {
  const findings: string[] = [];
  const { corruptions, leaks } = checkImage(format, file, {
    repair: 'none',
    log: (sentence) => findings.push(sentence),
    ...besideIt(beside),
  });
  return { corruptions, leaks, findings };
}

/** The file has sectors of these values where workloads write. */
function holds(dataFile: MemoryHostFile, content: Uint8Array): boolean {
  const exact = new LegalValues(content);
  return AREAS.every((area) => {
    dataFile.read(scratch, area.first * SECTOR, (area.end - area.first) * SECTOR, hostOffset(area.first * SECTOR));
    return findIllegal(scratch, area, exact, content) === null;
  });
}

/** Every sector of the disk. */
export const WHOLE = [{ first: 0, end: SECTORS }] as const;
const scratch = Buffer.alloc(SECTORS * SECTOR);

/** Reads the disk; `content` receives the value of each sector that was read. @param whole or only the areas in use */
function compare(image: WritableImage, legal: LegalValues, content: Uint8Array, whole: boolean): string | null {
  for (const area of whole ? WHOLE : AREAS) {
    image.read(scratch, area.first * SECTOR, (area.end - area.first) * SECTOR, guestOffset(area.first * SECTOR));
    const wrong = findIllegal(scratch, area, legal, content);
    if (wrong !== null) return wrong;
  }
  return null;
}
