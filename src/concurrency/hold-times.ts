// How long this thread holds metadata locks, for measurements: off, it costs nothing, because it is not there; switched on, it
// puts a clock around lock() and unlock() of every Mutex of the thread. What holds a lock is told by the stack of the release.

import { steadyMs } from './clock.ts';
import { Mutex } from './mutex.ts';

/** How the guarded part of a metadata lock is called. Others are held while something waits, which is what they are for. */
export const TABLES_OF = 'the tables of ';
/** Functions named for a hold, from the one that released the lock outwards. */
const NAMED_CALLERS = 6;

export interface LongHold {
  readonly guarded: string;
  readonly ms: number;
  /** the functions that held the lock, the innermost first */
  readonly callers: readonly string[];
}

/**
 * Calls `report` after each hold of a metadata lock by this thread that takes `leastMs` or more. Once a thread.
 * @param delay clock in ms of what is left out of each hold
 */
export function reportHolds(leastMs: number, delay: () => number, report: (hold: LongHold) => void): void {
  const { lock, unlock } = Mutex.prototype;
  const clock = (): number => steadyMs() - delay();
  let since = 0;
  Mutex.prototype.lock = function (this: Mutex): void {
    lock.call(this);
    if (this.guarded.startsWith(TABLES_OF)) since = clock();
  };
  Mutex.prototype.unlock = function (this: Mutex): void {
    const isTimed = this.held && this.guarded.startsWith(TABLES_OF);
    unlock.call(this);
    if (!isTimed) return;
    const ms = clock() - since;
    if (ms >= leastMs) report({ guarded: this.guarded, ms, callers: callersOf(new Error().stack ?? '') });
  };
}

/** Names in a stack, those of the lock itself aside. */
function callersOf(stack: string): string[] {
  const names = [...stack.matchAll(/^\s+at (?:async )?([\w.<>]+)/gm)].map((match) => match[1]!);
  return names.filter((name) => !/Mutex\.|^Object\.|^file/.test(name)).slice(0, NAMED_CALLERS);
}
