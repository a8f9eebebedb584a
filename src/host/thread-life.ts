// Whether a thread of this process still runs, as the kernel knows it. Node tells the death of a thread to the event loop of
// the thread that started it, and to nobody else: whoever sleeps on a futex has to look for himself.

import { existsSync, readlinkSync } from 'node:fs';
import { threadId } from 'node:worker_threads';

/** A thread, as others can ask for it. */
export interface ThreadName {
  /** its `threadId`, as locks know it */
  readonly thread: number;
  /** of the kernel; null where /proc does not tell it */
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

/** Of a thread of this process. @returns true if that is not known */
export function isAlive({ task }: ThreadName): boolean {
  return task === null || existsSync(`/proc/self/task/${task}`);
}
