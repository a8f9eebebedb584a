// The threads of a mount process and what passes between them and the main thread.
// Invariant: a thread ends by itself when its stop word or the end of the mount says so; it is never terminated while it
// may hold the metadata lock.

import { Worker } from 'node:worker_threads';
import type { SharedDisk } from '../disk/index.ts';
import type { SharedTree } from '../filesystem/index.ts';
import type { KernelSession } from '../fuse/index.ts';
import type { Log, LogLevel } from './log.ts';

/** Values of the stop word that every thread of a mount shares: element 0 of an array, see RequestGate for the others. */
export const STOP = {
  run: 0,
  /** end after the request in hand */
  end: 1,
  /** a thread has crashed: make durable what was acknowledged, leave the dirty bit set, end */
  rescue: 2,
} as const;

/** What a thread is given when it starts. */
export interface ServeData {
  readonly role: 'serve';
  readonly slot: number;
  readonly disk: SharedDisk;
  readonly tree: SharedTree;
  readonly descriptor: number;
  readonly protocol: KernelSession['protocol'];
  readonly counters: SharedArrayBuffer;
  /** shared by every thread of the mount; the element at `slot` is this thread's, see RequestGate */
  readonly stopWord: Int32Array;
  /** of `disk`, see RequestGate */
  readonly generation: number;
}

export interface MaintainData {
  readonly role: 'maintain';
  readonly slot: number;
  readonly disk: SharedDisk;
  readonly stopWord: Int32Array;
  readonly generation: number;
}

export type ThreadData = ServeData | MaintainData;

/** What a running thread is told: the disk to take when its gate says so. */
export interface DiskMessage {
  readonly type: 'disk';
  readonly disk: SharedDisk;
}

/** What a thread tells the main thread. */
export type ThreadMessage =
  | { readonly type: 'started' }
  | { readonly type: 'log'; readonly level: LogLevel; readonly sentence: string };

/** A running thread. */
export interface Thread {
  /** of this thread, as locks know it */
  readonly threadId: number;
  /** resolves to true when the thread is ready for requests, to false when it ended before */
  readonly started: Promise<boolean>;
  /** Gives it the disk that it takes when its gate says so. */
  handOver(disk: SharedDisk): void;
  /** resolves when the thread has ended; with the error that ended it, if one did */
  readonly ended: Promise<Error | null>;
}

/** A thread that has been started and loads its modules, but does not know yet what to do. */
export interface WarmThread {
  /** Gives it its work. Once only. */
  run(data: ThreadData, log: Log): Thread;
  /** Ends it before it was given any. */
  discard(): Promise<void>;
}

/** Else V8 reserves 512 MiB of address space for the code of each thread, which has a few MiB. */
const THREAD_LIMITS = { resourceLimits: { codeRangeSizeMb: 64 } };

const WORKER_URL = new URL('./worker.js', import.meta.url);

/** Starts a thread ahead of its work: loading its modules takes as long as opening the image and mounting. */
export function warmThread(): WarmThread {
  const worker = new Worker(WORKER_URL, THREAD_LIMITS);
  const { threadId } = worker;
  let failure: Error | null = null;
  const ended = new Promise<Error | null>((resolve) => {
    worker.on('error', (error) => {
      failure = error instanceof Error ? error : new Error(String(error));
    });
    worker.on('exit', (code) => {
      resolve(failure ?? (code === 0 ? null : new Error(`the thread ended with code ${code}`)));
    });
  });
  return {
    run: (data, log) => {
      const started = new Promise<boolean>((resolve) => {
        worker.on('message', (message: ThreadMessage) => {
          if (message.type === 'started') resolve(true);
          else log(message.level, message.sentence);
        });
        void ended.then(() => resolve(false));
      });
      worker.postMessage(data);
      const handOver = (disk: SharedDisk): void => worker.postMessage({ type: 'disk', disk } satisfies DiskMessage);
      return { threadId, started, handOver, ended };
    },
    discard: async () => {
      await worker.terminate();
    },
  };
}

export function startThread(data: ThreadData, log: Log): Thread {
  return warmThread().run(data, log);
}
