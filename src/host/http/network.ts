// The network thread as the thread that opens files sees it: started with the first remote file, ended with the last.

import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { ImgfuseError } from '../../errors/index.ts';
import type { BlockCacheState } from '../shared-file.ts';
import { isAlive, programBuild } from '../thread-life.ts';
import type { HttpLimits } from './limits.ts';
import type { NetworkData, NetworkRequest, OpenAnswer } from './network-thread.ts';

// a thread needs compiled code; unit tests run the sources
const SOURCES = import.meta.url.endsWith('.ts');
const THREAD_URL = new URL(
  SOURCES ? '../../../dist/host/http/network-thread.js' : './network-thread.js',
  import.meta.url,
);
/** Loading the modules of the thread comes on top of what the limits allow. */
const START_MS = 30_000;
/** How often a thread that waits for an answer looks whether the network thread still lives. */
const LOOK_MS = 1000;

class NetworkThread {
  readonly worker: Worker;
  private readonly task = new Int32Array(new SharedArrayBuffer(4));

  constructor() {
    const workerData: NetworkData = { task: this.task };
    this.worker = new Worker(THREAD_URL, {
      workerData,
      argv: programBuild(),
      resourceLimits: { codeRangeSizeMb: 64 },
    });
    // it ends with the process, and its readers look whether it lives
    this.worker.unref();
    this.worker.on('error', () => {});
  }

  /** It has run and runs no more. */
  get isDead(): boolean {
    const task = Atomics.load(this.task, 0);
    return task !== 0 && !isAlive({ thread: this.worker.threadId, task });
  }

  /** @returns whether the word has changed from 0 in time and before the thread died */
  answers(word: Int32Array, mostMs: number): boolean {
    for (let waitedMs = 0; waitedMs < mostMs && !this.isDead; waitedMs += LOOK_MS) {
      if (Atomics.wait(word, 0, 0, LOOK_MS) !== 'timed-out') return true;
    }
    return false;
  }
}

let thread: NetworkThread | null = null;
let openFiles = 0;
let lastId = 0;

export interface OpenedUrl {
  readonly state: BlockCacheState;
  /** tells the network thread that the file is not read any more */
  readonly close: () => void;
}

/**
 * Opens a URL and waits for it. The event loop of this thread stands still meanwhile; the limits bound how long.
 * @param allowed URLs that a redirect may lead to or below
 */
export function openUrl(url: string, allowed: readonly string[], limits: HttpLimits): OpenedUrl {
  if (thread === null || thread.isDead) thread = new NetworkThread();
  const asked = thread;
  const id = ++lastId;
  const { port1, port2 } = new MessageChannel();
  const answered = new Int32Array(new SharedArrayBuffer(4));
  const request: NetworkRequest = { type: 'open', id, url, allowed, limits, port: port2, answered };
  asked.worker.postMessage(request, [port2]);
  openFiles++;
  const close = (): void => {
    asked.worker.postMessage({ type: 'close', id } satisfies NetworkRequest);
    openFiles--;
    if (openFiles > 0) return;
    void thread?.worker.terminate();
    thread = null;
  };
  const { openAttempts, giveUpMs, stallMs, connectMs, redirects } = limits;
  const mostMs = START_MS + giveUpMs + openAttempts * (connectMs + stallMs) * (redirects + 1);
  asked.answers(answered, mostMs);
  const answer = receiveMessageOnPort(port1)?.message as OpenAnswer | undefined;
  port1.close();
  if (answer !== undefined && 'state' in answer) return { state: answer.state, close };
  close();
  const { kind, reason } = answer ?? {
    kind: 'io',
    reason: `cannot be read: the network thread of this process ${asked.isDead ? 'has died' : 'does not answer'}`,
  };
  throw new ImgfuseError(kind, `${url} ${reason}`, { path: url, operation: 'open' });
}
