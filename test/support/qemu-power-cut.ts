// QEMU's own engines under the crash model of power-cut.ts. qemu-io runs random guest steps over its blklogwrites driver;
// the crash states of what it logged are reopened by QEMU and, each a second time, by imgfuse, so that what the engine that
// wrote did wrong can be told from what the engine that repairs does wrong.

import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { WritableFormat, WritableImage } from '../../src/format/image-format.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import { type CrashMoment, type CrashState, crashMoments, replay } from './crash-states.ts';
import { findIllegal, LegalValues } from './legal-values.ts';
import { MemoryHostFile } from './memory-file.ts';
import { checkImage, openImage } from './memory-images.ts';
import {
  type Fault,
  type GuestEvent,
  judge,
  legalSectors,
  noVerdict,
  type Verdict,
  WHOLE,
  type Workload,
} from './power-cut.ts';
import { QemuHolder, qemuImg, qemuIo, tryQemu } from './qemu.ts';
import { parseWriteLog } from './qemu-write-log.ts';
import { AREAS, type GuestStep, randomSteps, SECTOR, SECTORS, SIZE } from './workloads.ts';
import type { RecordedOperation } from './wrapping-files.ts';

const CLUSTER = 4096;
const STEPS = 9;

export interface QemuSubject {
  readonly name: string;
  readonly format: WritableFormat;
  /** of qemu-img create */
  readonly options: string;
  readonly withBacking: boolean;
}

/** QEMU does not open a QED image whose tables are one cluster long. */
export const QEMU_SUBJECTS: readonly QemuSubject[] = [
  { name: 'qed', format: qed, options: 'cluster_size=4k,table_size=2' },
  { name: 'qcow2', format: qcow2, options: 'cluster_size=4k' },
].flatMap((subject) => [
  { ...subject, withBacking: false },
  { ...subject, name: `${subject.name} with a backing file`, withBacking: true },
]);

/** A workload as QEMU ran it. */
export interface Recording {
  readonly workload: Workload;
  readonly log: readonly RecordedOperation[];
  readonly events: readonly GuestEvent[];
}

/** Makes an image in `folder` and runs a random workload on it. @throws when its log is not what QEMU left on the disk */
export async function recordQemu(subject: QemuSubject, folder: string, random: () => number): Promise<Recording> {
  const { format } = subject;
  const [disk, logFile] = [join(folder, 'disk'), join(folder, 'log')];
  const { backing, content } = prepare(subject, folder, disk, random);
  const start = new MemoryHostFile(readFileSync(disk));
  const steps = randomSteps(random, STEPS).map((step, n) => forQemu(step, n, subject));
  writeFileSync(logFile, '');
  const file = `file.driver=blklogwrites,file.file.driver=file,file.file.filename=${disk}`;
  const image = `driver=${format.name},${file},file.log.driver=file,file.log.filename=${logFile}`;
  // writeback: without it qemu-io flushes after each write
  const writer = await QemuHolder.open(image, ['-t', 'writeback', '-d', 'unmap', '--image-opts']);
  const lengths = [statSync(logFile).size];
  try {
    for (const step of steps) {
      const output = await writer.run(commandOf(step));
      if (/failed|error/i.test(output)) throw new Error(`qemu-io ${commandOf(step)}: ${output}`);
      lengths.push(statSync(logFile).size);
    }
  } finally {
    await writer.close();
  }
  const { operations: log, ends } = parseWriteLog(readFileSync(logFile));
  if (Buffer.compare(replay(start, log).bytes(), readFileSync(disk)) !== 0) {
    throw new Error(`the log of ${log.length} operations does not lead to what ${disk} has`);
  }
  const done = (length: number) => ends.filter((end) => end <= length).length;
  const events = steps.map((step, n) => ({ step, started: done(lengths[n]!), ended: done(lengths[n + 1]!) }));
  const promises = { onlyLeaks: format === qcow2, marksDirty: false, leavesLeaks: true };
  return {
    workload: { format, start, beside: [], isRaw: false, backing, content, snapshot: null, steps, ...promises },
    log,
    events,
  };
}

/** Every other image begins with some data, as those of our own power cuts do. */
function prepare(
  { format, options, withBacking }: QemuSubject,
  folder: string,
  disk: string,
  random: () => number,
): { backing: WritableImage | null; content: Uint8Array } {
  const content = new Uint8Array(SECTORS);
  let backing: WritableImage | null = null;
  const base: string[] = [];
  if (withBacking) {
    content.fill(200, 0, SECTORS - 100);
    const bytes = new Uint8Array(SIZE).map((_, i) => content[Math.floor(i / SECTOR)]!);
    base.push('-b', join(folder, 'base'), '-F', 'raw');
    writeFileSync(base[1]!, bytes);
    backing = openImage(raw, new MemoryHostFile(bytes, '/base', true), { readOnly: true });
  }
  qemuImg('create', '-q', '-f', format.name, '-o', options, ...base, disk, `${SIZE}`);
  const writes: string[] = [];
  for (let n = 0; n < 6; n++) {
    const sector = Math.floor(random() * 100);
    writes.push(`write -P ${100 + n} ${sector * SECTOR} 4096`);
  }
  if (random() < 0.5) return { backing, content };
  qemuIo(disk, format.name, ...writes);
  for (const [n, write] of writes.entries()) {
    const sector = Number(write.split(' ')[3]) / SECTOR;
    content.fill(100 + n, sector, sector + 8);
  }
  return { backing, content };
}

/** The nearest that QEMU can be asked for. @param n number of the step, which gives a write its value */
function forQemu(anyStep: GuestStep, n: number, { format, withBacking }: QemuSubject): GuestStep {
  if (!('at' in anyStep)) return { kind: 'flush' };
  const step = { ...anyStep, at: anyStep.at - (anyStep.at % SECTOR) };
  if (step.kind === 'write') return step;
  // a write to a part of a zero cluster of QED brings back the backing file in the rest of it, without any power cut
  if (format === qed && withBacking) return { ...step, kind: 'write', value: 1 + n };
  // QEMU's QED answers a discard with success and keeps the data; its qcow2 discards whole clusters
  if (format === qed || step.kind !== 'discard') return { ...step, kind: 'zero' };
  const at = step.at - (step.at % CLUSTER);
  return { ...step, at, length: Math.ceil((step.at + step.length - at) / CLUSTER) * CLUSTER };
}

function commandOf(step: GuestStep): string {
  switch (step.kind) {
    case 'write':
      return `write -P ${step.value} ${step.at} ${step.length}`;
    case 'zero':
      return `write -z ${step.at} ${step.length}`;
    case 'discard':
      return `discard ${step.at} ${step.length}`;
    case 'flush':
      return 'flush';
    default:
      throw new Error(`qemu-io has no ${step.kind}`);
  }
}

/** What became of the same states in two programs. */
export interface Verdicts {
  readonly qemu: Verdict;
  readonly imgfuse: Verdict;
  /** states that call themselves clean and are not: imgfuse opens them for writing after a repair with -r all only */
  refused: number;
}

export function noVerdicts(): Verdicts {
  return { qemu: noVerdict(), imgfuse: noVerdict(), refused: 0 };
}

/** Judges one state of each moment of a recording. */
export function cutQemuPower(recording: Recording, folder: string, random: () => number, verdicts: Verdicts): void {
  const { workload, log, events } = recording;
  for (const { moment, subset, state } of oneOfEachMoment(crashMoments([workload.start], log, random), random)) {
    const legal = legalSectors(workload.content, events, moment);
    const where = `moment ${moment} of ${log.length}, subset ${subset}`;
    const { qemu, imgfuse } = verdicts;
    note(qemu, where, workload, judgeByQemu(workload, state, legal, folder, random));
    if (isRefused(workload, state)) {
      verdicts.refused++;
      checkImage(workload.format, state, { repair: 'all', log: () => undefined });
    }
    note(imgfuse, where, workload, judge(workload, [state], legal, random, imgfuse.states));
  }
}

/** Of a format whose crashes leave leaks at worst, such a state counts as corrupt instead. */
function isRefused({ format, onlyLeaks }: Workload, state: MemoryHostFile): boolean {
  if (onlyLeaks || format.inspect(state).dirty) return false;
  return checkImage(format, state, { repair: 'none', log: () => undefined }).corruptions > 0;
}

function note(verdict: Verdict, where: string, { steps }: Workload, fault: Fault | null): void {
  verdict.states++;
  if (fault === null) return;
  verdict[fault.kind]++;
  verdict.failures.push(`${where}: ${fault.text}; steps ${JSON.stringify(steps)}`);
}

/** A process costs so much that most states are left out; all states of a moment are as likely as each other. */
function* oneOfEachMoment(moments: Iterable<CrashMoment>, random: () => number): Generator<CrashState> {
  let chosen: CrashState | null = null;
  let seen = 0;
  for (const { moment, subset, build } of moments) {
    if (chosen !== null && chosen.moment !== moment) {
      yield chosen;
      seen = 0;
    }
    seen++;
    if (random() * seen < 1) chosen = { moment, subset, state: build()[0]! };
  }
  if (chosen !== null) yield chosen;
}

/** The oracles of power-cut.ts, with QEMU's programs; what only leaks is right. @returns what is wrong, or null */
export function judgeByQemu(
  { format: { name }, onlyLeaks }: Workload,
  state: MemoryHostFile,
  legal: LegalValues,
  folder: string,
  random: () => number,
): Fault | null {
  const [path, copy] = [join(folder, 'state'), join(folder, 'copy')];
  writeFileSync(path, state.bytes());
  const content = new Uint8Array(SECTORS);
  const read = (expected: LegalValues): Fault | null => {
    const { code, output } = tryQemu('qemu-img', 'convert', '-t', 'unsafe', '-f', name, '-O', 'raw', path, copy);
    if (code !== 0) return { kind: 'corrupt', text: `it cannot be read: ${output.trim()}` };
    const wrong = findIllegal(readFileSync(copy), WHOLE[0], expected, content);
    return wrong === null ? null : { kind: 'lost', text: wrong };
  };
  // a read-write open repairs, as far as QEMU does that by itself
  const repair = ['-c', 'flush'];
  const wrong =
    (onlyLeaks ? checkByQemu(name, path, 'corrupt') : null) ?? writeByQemu(name, path, repair) ?? read(legal);
  if (wrong !== null) return wrong;
  // three further writes must not reach anything else: the oracle that finds a host cluster with two owners
  const writes: string[] = [];
  for (let n = 0; n < 3; n++) {
    const { first, end } = AREAS[n % 2]!;
    const sector = first + Math.floor(random() * (end - first));
    writes.push('-c', `write -P ${250 + n} ${sector * SECTOR} ${SECTOR}`);
    content[sector] = 250 + n;
  }
  const after =
    writeByQemu(name, path, writes) ?? read(new LegalValues(content)) ?? checkByQemu(name, path, 'unrepaired');
  return after === null ? null : { ...after, text: `after three further writes ${after.text}` };
}

/** Without waiting for the host's disk, whose power stays on. */
function writeByQemu(format: string, path: string, commands: readonly string[]): Fault | null {
  const { code, output } = tryQemu('qemu-io', '-t', 'unsafe', '-f', format, ...commands, path);
  return code === 0 ? null : { kind: 'corrupt', text: `qemu-io exits with ${code}: ${output.trim()}` };
}

function checkByQemu(format: string, path: string, kind: 'unrepaired' | 'corrupt'): Fault | null {
  const { code, output } = tryQemu('qemu-img', 'check', '-f', format, path);
  return code === 0 || code === 3 ? null : { kind, text: `qemu-img check exits with ${code}: ${output.trim()}` };
}
