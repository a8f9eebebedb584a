// What threads of this process have to know of each other. Whether one still runs, as the kernel knows it: Node reports the death of a thread only to the event
// loop of the thread that started it: a thread that sleeps on a futex has to look by itself.

import { existsSync, readlinkSync } from 'node:fs';
import { threadId } from 'node:worker_threads';
import { offerProcessorWith } from '../concurrency/turns.ts';
import { nativeAvailable, yieldProcessor } from '../native/index.ts';

/** A thread, as others can ask for it. */
export interface ThreadName {
  /** its `threadId`, as locks know it */
  readonly thread: number;
  /** number of the kernel; null if /proc does not tell it */
  readonly task: number | null;
}

/** The calling thread lets others run between two pieces of long work, where the system call for that is available. */
export function takeTurns(): void {
  if (nativeAvailable()) offerProcessorWith(yieldProcessor);
}

/** The calling thread. */
export function ownThread(): ThreadName {
  try {
    // "1234/task/1236"
    return { thread: threadId, task: Number(readlinkSync('/proc/thread-self').split('/')[2]) };
  } catch {
    return { thread: threadId, task: null };
  }
}

/** Asks about a thread of this process. @returns true also if that is not known */
export function isAlive({ task }: ThreadName): boolean {
  return task === null || existsSync(`/proc/self/task/${task}`);
}

/**
 * Which build of the program this process runs, for the arguments of a thread: the files may be of another one by the time that
 * the thread starts, and must not be mixed. Empty if the program was not put together.
 */
export function programBuild(): string[] {
  const build = (globalThis as Record<symbol, unknown>)[Symbol.for('imgfuse.build')];
  return typeof build === 'string' ? [build] : [];
}
