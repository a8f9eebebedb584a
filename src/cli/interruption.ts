// Signals to a command that must take back what it has made before it ends: they are noted, and the command looks at its
// checkpoints. Invariant: between the first line and release() no signal that can be caught ends this process.

import type { ChildProcess } from 'node:child_process';
import { constants } from 'node:os';
import { isForegroundOfTerminal } from '../host/processes.ts';

/** Signals that end a program unless it handles them. */
const ENDING = [
  ...(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const),
  ...(['SIGALRM', 'SIGVTALRM', 'SIGXCPU', 'SIGIO', 'SIGPWR'] as const),
];

/** A terminal sends these to every process in its foreground, the program that a command runs among them. */
const FROM_TERMINAL: readonly NodeJS.Signals[] = ['SIGINT', 'SIGQUIT'];

/** Ends the command at a checkpoint. */
export class Interrupted extends Error {
  readonly exitCode: number;

  constructor(signal: NodeJS.Signals) {
    super(`interrupted by ${signal}`);
    this.exitCode = signalExitCode(signal);
  }
}

/** The exit code of a shell for a program that a signal has ended. */
export function signalExitCode(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}

export class Interruption {
  #signal: NodeJS.Signals | null = null;
  #child: ChildProcess | null = null;
  readonly #controller = new AbortController();
  readonly #handler = (signal: NodeJS.Signals): void => this.#receive(signal);

  constructor() {
    for (const signal of ENDING) process.on(signal, this.#handler);
  }

  /** Tells programs that are at work to end. */
  get abort(): AbortSignal {
    return this.#controller.signal;
  }

  /** @throws Interrupted if a signal has come */
  checkpoint(): void {
    if (this.#signal !== null) throw new Interrupted(this.#signal);
  }

  /** From now on signals are for this program, until it ends; null: they are for nobody, and have no effect. */
  passTo(child: ChildProcess | null): void {
    this.#child = child;
  }

  release(): void {
    for (const signal of ENDING) process.off(signal, this.#handler);
  }

  #receive(signal: NodeJS.Signals): void {
    if (this.#child !== null) {
      const hasItAlready = FROM_TERMINAL.includes(signal) && isForegroundOfTerminal();
      if (!hasItAlready) this.#child.kill(signal);
      return;
    }
    this.#signal ??= signal;
    this.#controller.abort();
  }
}
