// The threads of a mount process that serve requests, as the main thread, which runs this file, starts them and hears of them.
// Invariant: a thread ends by itself when its stop word or the end of the mount says so; it is never terminated while it may
// hold the metadata lock. One that ends without having said so has died.

import { Worker } from 'node:worker_threads';
import type { SharedDisk } from '../../disk/index.ts';
import type { SharedTree } from '../../filesystem/index.ts';
import type { KernelSession, LateDrop } from '../../fuse/index.ts';
import { programBuild } from '../../host/thread-life.ts';
import type { Log, LogLevel } from '../log.ts';
import type { Settled } from './waiting-room.ts';

/** What a thread is given when it starts. */
export interface ServeData {
  readonly slot: number;
  readonly disk: SharedDisk;
  readonly tree: SharedTree;
  readonly descriptor: number;
  readonly protocol: KernelSession['protocol'];
  readonly counters: SharedArrayBuffer;
  /** of ServingWords; shared by every thread of the mount */
  readonly words: Int32Array;
  /** of `disk`, see Gate */
  readonly generation: number;
  /** what becomes of requests that the host has no space for; absent: they fail */
  readonly full?: 'hold' | RoomData;
}

/** For the thread that is the waiting room, and takes no requests from the kernel. */
export interface RoomData {
  /** see WaitingRoomParts */
  readonly limitMs: number | undefined;
}

/** A request that a worker holds; the main thread passes it to the waiting room. */
export interface HeldMessage {
  readonly type: 'held';
  readonly message: Uint8Array;
  readonly descriptor: number;
  /** see HeldRequest */
  readonly requester: number;
  readonly sinceMs: number;
  readonly file: string;
  /** says what the host has no space for */
  readonly sentence: string;
}

/** Held requests are answered. */
export interface SettledMessage {
  readonly type: 'settled';
  readonly settled: Settled;
}

/** What a thread tells of held requests. */
export type SpaceMessage = HeldMessage | SettledMessage;

/** What a running thread is told: the disk to take when its gate says so, and, in the waiting room, requests. */
export type ToldMessage = DiskMessage | HeldMessage;

export interface DiskMessage {
  readonly type: 'disk';
  readonly disk: SharedDisk;
}

/** What a thread tells the main thread. */
export type ThreadMessage =
  | { readonly type: 'started' }
  /** somebody has opened a file of the mount */
  | { readonly type: 'used' }
  /** requests wait for the only thread that serves */
  | { readonly type: 'crowded' }
  | SpaceMessage
  | { readonly type: 'log'; readonly level: LogLevel; readonly sentence: string }
  /** a request that the main thread answers, see answerLate() */
  | { readonly type: 'later'; readonly message: Uint8Array<ArrayBuffer>; readonly descriptor: number }
  /** pages that the main thread has dropped before it sends a reply, see answerAfterDrop() */
  | { readonly type: 'drop'; readonly drop: LateDrop; readonly descriptor: number }
  /** its work is done; it holds nothing any more */
  | { readonly type: 'finished' };

/** A running thread. */
export interface Thread {
  /** of this thread, as locks know it */
  readonly threadId: number;
  readonly slot: number;
  /** resolves to true when the thread is ready for requests, to false when it ended before */
  readonly started: Promise<boolean>;
  /** resolves when it says that somebody has opened a file; never if nobody does */
  readonly used: Promise<void>;
  /** resolves when requests wait for it, if it is the first thread; never if they do not */
  readonly crowded: Promise<void>;
  /** Gives it the disk that it takes when its gate says so. */
  handOver(disk: SharedDisk): void;
  /** Gives the waiting room a request. */
  giveHeld(message: HeldMessage): void;
  /** resolves when the thread has ended; with the error that it died of, if it did not end by itself */
  readonly ended: Promise<Error | null>;
}

/** Called with what a running thread tells. */
export interface ThreadHears {
  readonly log: Log;
  /** @param message a request that its thread does not answer @param descriptor that it was read from */
  readonly later: (message: Uint8Array, descriptor: number) => void;
  /** @param descriptor that the request was read from whose reply waits for the drop */
  readonly drop: (drop: LateDrop, descriptor: number) => void;
  /** of requests that wait for space on the host */
  readonly space: (message: SpaceMessage) => void;
}

/** A thread that has been started and loads its modules, but does not know yet what to do. */
export interface WarmThread {
  /** Gives it its work. Once only. */
  run(data: ServeData, hears: ThreadHears): Thread;
  /** Ends it before it was given any. */
  discard(): Promise<void>;
}

/** The slot of the thread that the mount begins with. */
export const FIRST_SLOT = 1;

/** Else V8 reserves 512 MiB of address space for the code of each thread, which has a few MiB. */
export const THREAD_OPTIONS = { resourceLimits: { codeRangeSizeMb: 64 }, argv: programBuild() };

const WORKER_URL = new URL('./worker.js', import.meta.url);

/** Starts a thread ahead of its work: loading its modules takes as long as opening the image and mounting. */
export function warmThread(): WarmThread {
  const worker = new Worker(WORKER_URL, THREAD_OPTIONS);
  const { threadId } = worker;
  let failure: Error | null = null;
  let isFinished = false;
  const ended = new Promise<Error | null>((resolve) => {
    worker.on('error', (error) => {
      failure = error instanceof Error ? error : new Error(String(error));
    });
    worker.on('exit', (code) => {
      const isDead = code !== 0 || !isFinished;
      resolve(failure ?? (isDead ? new Error(`a thread ended in the middle of its work, with code ${code}`) : null));
    });
  });
  return {
    run: (data, { drop, log, later, space }) => {
      const [used, noteUse] = signal();
      const [crowded, noteCrowd] = signal();
      const started = new Promise<boolean>((resolve) => {
        worker.on('message', (message: ThreadMessage) => {
          if (message.type === 'started') resolve(true);
          else if (message.type === 'used') noteUse();
          else if (message.type === 'crowded') noteCrowd();
          else if (message.type === 'finished') isFinished = true;
          else if (message.type === 'later') later(message.message, message.descriptor);
          else if (message.type === 'drop') drop(message.drop, message.descriptor);
          else if (message.type === 'held' || message.type === 'settled') space(message);
          else log(message.level, message.sentence);
        });
        void ended.then(() => resolve(false));
      });
      worker.postMessage(data);
      const handOver = (disk: SharedDisk): void => worker.postMessage({ type: 'disk', disk } satisfies DiskMessage);
      const giveHeld = (message: HeldMessage): void => worker.postMessage(message);
      return { threadId, slot: data.slot, started, used, crowded, handOver, giveHeld, ended };
    },
    discard: async () => {
      await worker.terminate();
    },
  };
}

export function startThread(data: ServeData, hears: ThreadHears): Thread {
  return warmThread().run(data, hears);
}

function signal(): [Promise<void>, () => void] {
  let give: () => void = () => undefined;
  const promise = new Promise<void>((resolve) => {
    give = resolve;
  });
  return [promise, give];
}
