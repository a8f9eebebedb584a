// Mutants in a process of its own that is watched from here: what takes more than two seconds of CPU time is ended and reported, and
// the next mutant goes on in a new process. Its memory is measured by the kernel.

import { type ChildProcess, fork } from 'node:child_process';
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const HANG_MS = 2000;
/** A process takes this long at most until its first mutant: it loads modules and reads images. */
const START_MS = 20_000;
/** The number of the mutant under way before the first one. */
const STARTING = -1;
/** However busy the machine is, a process that says nothing for this long has stopped. */
const SILENCE_MS = 120_000;
/** Mutants of one process. */
const BATCH = 50_000;
const LOOK_MS = 50;
/** Processes at the same time. */
const JOBS = Math.max(1, Number(process.env['PROOF_JOBS'] ?? 1));

export interface WatchFigures {
  mutants: number;
  hangs: number;
  crashes: number;
  slowestMs: number;
  peakBytes: number;
  /** CPU time of the processes that came to their end */
  cpuSeconds: number;
  /** one sentence each, crashes and hangs included */
  readonly findings: string[];
}

export function noFigures(): WatchFigures {
  return { mutants: 0, hangs: 0, crashes: 0, slowestMs: 0, peakBytes: 0, cpuSeconds: 0, findings: [] };
}

/** A module that takes a job as its message, writes the number of each mutant to descriptor 4, and sends what it finds. */
export interface MutantProgram {
  readonly path: string;
  readonly parameters: readonly string[];
  /** files that it has open, from descriptor 5 on */
  readonly descriptors?: readonly number[];
}

/** The mutants of a seed, from number `first` on. */
export interface MutantRange {
  readonly seed: number;
  readonly first: number;
  readonly mutants: number;
}

type Counts = Readonly<Partial<Record<string, number>>>;
type Message =
  | { readonly bug: string }
  | { readonly done: true; readonly counts: Counts; readonly peakBytes: number; readonly cpuMicroseconds: number };

/**
 * Runs every mutant of a range, in as many processes as it takes, JOBS at a time.
 * @param job what the program needs beside the numbers of its mutants @param count told what each process counted
 */
export async function watchMutants(
  program: MutantProgram,
  job: object,
  { seed, first, mutants }: MutantRange,
  folder: string,
  figures: WatchFigures,
  count: (counts: Counts) => void,
): Promise<void> {
  const end = first + mutants;
  const batch = Math.min(BATCH, Math.ceil(mutants / JOBS));
  let next = first;
  const work = async (worker: number): Promise<void> => {
    const progress = openSync(join(folder, `progress-${worker}`), 'w+');
    try {
      while (next < end) {
        let from = next;
        const to = Math.min(end, from + batch);
        next = to;
        while (from < to) {
          const stoppedAt = await runChild(program, { ...job, seed, from, to }, figures, progress, count);
          figures.mutants += stoppedAt - from;
          from = stoppedAt;
        }
      }
    } finally {
      closeSync(progress);
    }
  };
  await Promise.all(Array.from({ length: JOBS }, (_, worker) => work(worker)));
}

interface Job {
  readonly seed: number;
  readonly from: number;
  readonly to: number;
}

/** @returns the number of the mutant to go on with */
async function runChild(
  { path, parameters, descriptors = [] }: MutantProgram,
  job: Job,
  figures: WatchFigures,
  progress: number,
  count: (counts: Counts) => void,
): Promise<number> {
  writeSync(progress, Float64Array.of(STARTING), 0, 8, 0);
  const child = fork(path, parameters, {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc', progress, ...descriptors],
    // one thread: what helps a collection along takes the processor from the other processes
    execArgv: [
      ...['--max-old-space-size=128', '--expose-gc', '--single-threaded'],
      // V8 would put objects of an image straight into the old space, which costs three full collections instead of one
      '--no-allocation-site-pretenuring',
    ],
    // large buffers go back to the kernel when they are freed: what is measured is what is in use
    env: { ...process.env, MALLOC_MMAP_THRESHOLD_: '131072' },
  });
  let errors = '';
  child.stderr!.on('data', (chunk) => {
    errors = `${errors}${String(chunk)}`.slice(-4000);
  });
  let isDone = false;
  child.on('message', (message: Message) => {
    if ('bug' in message) {
      figures.findings.push(message.bug);
      return;
    }
    isDone = true;
    count(message.counts);
    figures.peakBytes = Math.max(figures.peakBytes, message.peakBytes);
    figures.cpuSeconds += message.cpuMicroseconds / 1e6;
  });
  const current = { index: STARTING, startedMs: cpuMs(child), wallMs: Date.now() };
  let hangs = false;
  const watch = setInterval(() => {
    const usedMs = cpuMs(child);
    const index = mutantUnderWay(progress);
    if (index !== current.index) {
      Object.assign(current, { index, startedMs: usedMs, wallMs: Date.now() });
      return;
    }
    const took = usedMs - current.startedMs;
    if (index !== STARTING) figures.slowestMs = Math.max(figures.slowestMs, took);
    if (took <= (index === STARTING ? START_MS : HANG_MS) && Date.now() - current.wallMs <= SILENCE_MS) return;
    hangs = true;
    child.kill('SIGKILL');
  }, LOOK_MS);
  child.send(job);
  const ended = await new Promise<number | string>((resolve) => {
    child.on('exit', (code, signal) => resolve(code ?? signal ?? 'unknown'));
  });
  clearInterval(watch);
  if (isDone) return job.to;
  const index = Math.max(job.from, mutantUnderWay(progress));
  if (hangs) figures.hangs++;
  else figures.crashes++;
  figures.findings.push(
    `mutant ${index} of seed ${job.seed} ` +
      (hangs ? `takes more than ${HANG_MS} ms` : `ends the process (${ended}): ${errors}`),
  );
  return index + 1;
}

function mutantUnderWay(progress: number): number {
  const index = new Float64Array(1);
  readSync(progress, index, 0, 8, 0);
  return index[0]!;
}

/** CPU time of a process: a busy machine makes nothing a hang. */
function cpuMs(child: ChildProcess): number {
  try {
    const fields = readFileSync(`/proc/${child.pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10;
  } catch {
    return 0;
  }
}
