// Pieces of a long proof on several processors. A process runs the modules of the proof put together into one: V8 then calls from one
// into the other as within one module, and not by the way of vitest: power cuts of VDI take 1.3 to 1.9 times the CPU time there.

import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'rolldown';
import { type Piece, type ResultOf, runPiece } from './pieces.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from './temporary.ts';

/** Processes that a long run asks for; none: its pieces run in the process that asks. */
const JOBS = Number(process.env['PROOF_JOBS'] ?? 0);
/** Pieces leave thousands of short-lived images behind: most are gone before a larger young generation is full. */
const EXEC_ARGV = ['--max-semi-space-size=32', '--single-threaded-gc'];

/** However busy the machine is, a piece that has no result by then never ends; most take seconds. */
const STUCK_MS = 20 * 60_000;

type Answer = { readonly cpuSeconds: number } & ({ readonly result: object } | { readonly error: string });

/** Runs pieces: in this process, or in others. */
export class PieceRunner {
  private readonly idle: ChildProcess[] = [];
  private readonly all: ChildProcess[] = [];
  private readonly used = new Map<ChildProcess, number>();
  private folder: string | null = null;

  /** Of a run; 1 in this process. */
  get jobs(): number {
    return Math.max(1, JOBS);
  }

  /**
   * Runs pieces `first`, `first` + 1, ... @param pieceOf what the piece of a number is; null when there are no more
   * @param done takes a result @returns the number of the first piece that was not run
   */
  async run<One extends Piece>(
    first: number,
    pieceOf: (number: number) => One | null,
    done: (result: ResultOf<One>) => void,
  ): Promise<number> {
    let next = first;
    const work = async (): Promise<void> => {
      for (let piece = pieceOf(next); piece !== null; piece = pieceOf(next)) {
        next++;
        done(await this.runOne(piece));
      }
    };
    await Promise.all(Array.from({ length: this.jobs }, work));
    return next;
  }

  /** CPU time of all pieces so far. */
  cpuSeconds(): number {
    if (JOBS > 0) return [...this.used.values()].reduce((sum, seconds) => sum + seconds, 0);
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  }

  close(): void {
    for (const child of this.all) child.disconnect();
    if (this.folder !== null) removeTemporaryDirectory(this.folder);
  }

  private async runOne<One extends Piece>(piece: One): Promise<ResultOf<One>> {
    if (JOBS === 0) return runPiece(piece);
    const child = this.idle.pop() ?? fork(await this.program(), { execArgv: EXEC_ARGV });
    if (!this.all.includes(child)) this.all.push(child);
    const answer = await answerOf(child, piece);
    this.used.set(child, answer.cpuSeconds);
    this.idle.push(child);
    if ('error' in answer) throw new Error(`${JSON.stringify(piece)}: ${answer.error}`);
    return answer.result as ResultOf<One>;
  }

  private async program(): Promise<string> {
    this.folder ??= makeTemporaryDirectory();
    const path = join(this.folder, 'piece-child.mjs');
    await build({
      input: fileURLToPath(new URL('./piece-child.ts', import.meta.url)),
      platform: 'node',
      external: [/^(koffi|fuse-native)(\/|$)/],
      output: { file: path, format: 'esm' },
      logLevel: 'warn',
    });
    return path;
  }
}

/** @param stuckMs after which a process that does not answer is killed */
export function answerOf(child: ChildProcess, piece: Piece, stuckMs = STUCK_MS): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const watch = setTimeout(() => child.kill('SIGKILL'), stuckMs);
    const ended = (code: number | null, signal: string | null): void => {
      clearTimeout(watch);
      reject(new Error(`the process of ${JSON.stringify(piece)} has ended: ${code ?? signal}`));
    };
    child.once('exit', ended);
    child.once('message', (answer: Answer) => {
      clearTimeout(watch);
      child.off('exit', ended);
      resolve(answer);
    });
    child.send(piece);
  });
}
