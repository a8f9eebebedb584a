// Runs long work in steps, so that signals are seen between them: the first one ends the work in good order, a second one at once.

import { constants } from 'node:os';
import { setImmediate as turn } from 'node:timers/promises';
import { type Closeable, closeQuietly } from '../errors/close.ts';
import type { Progress } from './progress.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** Time between looks at signals. */
const STEPS_MS = 20;

/** @returns what the work returns; interrupted: the exit code for the signal that ended it */
export type Outcome<T> = { readonly result: T } | { readonly interrupted: number };

/**
 * Runs the work on what was opened for it, and closes that; it is closed whatever fails.
 * @param opened its work yields the fraction that is done, and can be left there
 */
export async function runOpened<T>(
  opened: Closeable & { readonly work: Generator<number, T, void> },
  progress: Progress,
): Promise<Outcome<T>> {
  let outcome: Outcome<T>;
  try {
    outcome = await runInSteps(opened.work, progress);
  } catch (error) {
    closeQuietly([opened]);
    throw error;
  }
  opened.close();
  return outcome;
}

async function runInSteps<T>(work: Generator<number, T, void>, progress: Progress): Promise<Outcome<T>> {
  let exitCode: number | null = null;
  const end = (signal: NodeJS.Signals): void => {
    exitCode = 128 + constants.signals[signal];
  };
  for (const signal of SIGNALS) process.once(signal, end);
  try {
    let looked = performance.now();
    for (;;) {
      const step = work.next();
      if (step.done === true) return { result: step.value };
      progress.update(step.value);
      if (performance.now() - looked < STEPS_MS) continue;
      await turn();
      if (exitCode !== null) return { interrupted: exitCode };
      looked = performance.now();
    }
  } finally {
    progress.clear();
    for (const signal of SIGNALS) process.off(signal, end);
  }
}
