// Whether a thread of this process still runs, as the kernel knows it. Node reports the death of a thread only to the event
// loop of the thread that started it: a thread that sleeps on a futex has to look by itself.

import { existsSync, readlinkSync } from 'node:fs';
import { threadId } from 'node:worker_threads';

/** A thread, as others can ask for it. */
export interface ThreadName {
  /** its `threadId`, as locks know it */
  readonly thread: number;
  /** number of the kernel; null if /proc does not tell it */
  readonly task: number | null;
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
