// Entry of the thread that keeps the disk of a mount: it opens the image (and checks and repairs it), works in the background
// while others serve, opens it anew in a handover, and closes it. All of that may take long or wait for a server, and the
// main thread must not. Calls are carried out one at a time, in the order in which they came.

import { parentPort, threadId } from 'node:worker_threads';
import {
  attachDisk,
  closeAndReopenDisk,
  logLongHolds,
  type OpenDiskOptions,
  type OpenStep,
  openDisk,
  reopenDisk,
  type VirtualDisk,
} from '../../disk/index.ts';
import { describeError } from '../../errors/index.ts';
import { findPartition } from '../../filesystem/index.ts';
import { passwordFrom } from '../../host/passwords.ts';
import { takeTurns } from '../../host/thread-life.ts';
import { setIoFlusher } from '../../native/index.ts';
import { type LogLevel, requestErrorLog } from '../log.ts';
import { ServingWords } from '../workers/serving-words.ts';
import type { KeeperAnswer, KeeperCall, KeeperMessage, KeptDisk, OpenRequest, Reopening } from './disk-keeper.ts';
import { sendError } from './sent-error.ts';

const MAINTAIN_INTERVAL_MS = 250;
/** A step is told when it begins, and how far it is at most this often. */
const TELL_INTERVAL_MS = 100;

function post(message: KeeperMessage): void {
  parentPort?.postMessage(message);
}

function log(level: LogLevel, sentence: string): void {
  post({ type: 'log', level, sentence });
}

class Keeper {
  private options: OpenDiskOptions | null = null;
  private disk: VirtualDisk | null = null;
  /** opened beside the disk in a takeover; nobody uses it yet */
  private next: VirtualDisk | null = null;
  private words: ServingWords | null = null;
  private timer: NodeJS.Timeout | null = null;
  private readonly logTrouble = requestErrorLog(log);

  act(call: KeeperCall): unknown {
    switch (call.type) {
      case 'open':
        return this.open(call.request);
      case 'adopt-dead':
        this.disk = attachDisk(call.disk, call.slot, (sentence) => log('notice', sentence));
        return null;
      case 'reopen':
        this.next = reopenDisk(this.disk!, this.reopening(call.how));
        return this.next.share();
      case 'take':
        return this.take();
      case 'drop':
        this.next?.close();
        this.next = null;
        return null;
      case 'close-and-reopen': {
        const before = this.disk!;
        // should the image not open again there is none
        this.disk = null;
        const { disk, failure } = closeAndReopenDisk(before, this.reopening(call.how));
        this.disk = disk;
        return { disk: disk.share(), failure: failure === undefined ? null : sendError(failure) };
      }
      case 'rescue':
        this.disk?.rescue();
        return null;
      case 'close':
        return this.close(call.withdraw);
    }
  }

  private open(request: OpenRequest): KeptDisk {
    this.words = new ServingWords(request.words);
    this.options = {
      ...request.options,
      snapshots: true,
      password: passwordFrom(request.passwords),
      log: (sentence) => log('notice', sentence),
      progress: tellSteps(),
    };
    this.disk = openDisk(request.path, this.options);
    const part = this.partOf(this.disk, request.partition);
    this.maintainLater();
    const { path, backing, format, isBackingWritable, readOnly } = this.disk.status();
    const hasSnapshots = this.disk.snapshots().length > 0;
    return {
      path,
      backing,
      isBackingWritable,
      format,
      readOnly,
      hasSnapshots,
      part,
      modifiedMs: this.disk.modifiedMs(),
      shared: this.disk.share(),
    };
  }

  /** @throws ImgfuseError missing, if there is no such partition; the disk is closed then */
  private partOf(disk: VirtualDisk, partition: number | null): KeptDisk['part'] {
    if (partition === null) return null;
    try {
      return findPartition(disk, partition);
    } catch (error) {
      this.disk = null;
      disk.withdraw();
      throw error;
    }
  }

  private reopening({ readOnly, locks }: Reopening): OpenDiskOptions {
    const before = this.options!;
    const options = { ...before, readOnly, locks: before.locks === 'none' ? before.locks : locks };
    return readOnly ? { ...options, copyOnRead: false } : options;
  }

  /** The disk of before was only read: nothing of it can fail but the close of a descriptor. */
  private take(): null {
    const before = this.disk;
    this.disk = this.next;
    this.next = null;
    before?.close();
    return null;
  }

  private close(withdraw: boolean): number | null {
    clearTimeout(this.timer ?? undefined);
    const bytes = this.disk?.allocatedBytes() ?? null;
    try {
      this.next?.close();
    } finally {
      if (withdraw) this.disk?.withdraw();
      else this.disk?.close();
    }
    return bytes;
  }

  /** Not once the mount ends: after a crash the tables in memory are not trusted enough to call the image clean. */
  private maintainLater(): void {
    this.timer = setTimeout(() => {
      if (this.words?.isStopped !== false) return;
      try {
        this.disk?.maintain();
      } catch (error) {
        this.logTrouble(error, 'background work');
      }
      this.maintainLater();
    }, MAINTAIN_INTERVAL_MS);
  }
}

/** Tells the main thread what an open is doing, which is seen by whoever waits for it. */
function tellSteps(): (step: OpenStep) => void {
  let told = '';
  let toldAt = 0;
  return (step) => {
    const now = performance.now();
    if (step.doing === told && now - toldAt < TELL_INTERVAL_MS) return;
    told = step.doing;
    toldAt = now;
    post({ type: 'step', step });
  };
}

const keeper = new Keeper();
logLongHolds((sentence) => log('notice', sentence));

// memory reclaim may wait for what this thread writes; without the privilege it goes on all the same
try {
  setIoFlusher();
} catch (error) {
  log('debug', `thread ${threadId} is not marked as an I/O flusher: ${describeError(error)}`);
}

takeTurns();

parentPort?.on('message', ({ id, call }: { readonly id: number; readonly call: KeeperCall }) => {
  let answer: KeeperAnswer;
  try {
    answer = { type: 'answer', id, value: keeper.act(call), error: null };
  } catch (error) {
    answer = { type: 'answer', id, value: null, error: sendError(error) };
  }
  post(answer);
  if (call.type === 'close') parentPort?.close();
});
