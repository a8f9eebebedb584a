// The thread that looks into the disk for the status (inspector-thread.ts), as the main thread, which runs this file, sees it. A look
// may wait for a server or a slow host, and the main thread must not. It is started when somebody asks, and ends when nobody has
// asked for a while. Invariant: it reads the disk only between its gate's enter and leave, like the threads that serve the mount.

import { Worker } from 'node:worker_threads';
import type { SharedDisk } from '../../disk/index.ts';
import type { SharedTree } from '../../filesystem/index.ts';
import type { Content, Partition, PartitionTable } from '../../guest/partitions/index.ts';
import { THREAD_OPTIONS } from '../workers/threads.ts';

/** A look that takes longer is given up: the status then says nothing of partitions. */
const LIMIT_MS = 3000;
/** It ends when nobody has asked for so long. */
const IDLE_MS = 10_000;

export interface InspectedPartition extends Partition {
  readonly content: Content | null;
}

/** What is on the disk. */
export interface DiskReport {
  readonly table: Pick<PartitionTable, 'scheme' | 'sectorSize' | 'id' | 'warnings'>;
  readonly partitions: readonly InspectedPartition[];
  /** of a disk without a table, as a whole */
  readonly content: Content | null;
}

/** The disk to look into, and what its thread needs to take part in the serving of it. */
export interface InspectedDisk {
  readonly disk: SharedDisk;
  /** null: the mount shows no partitions as files */
  readonly tree: SharedTree | null;
  /** of ServingWords */
  readonly words: Int32Array;
  readonly slot: number;
  /** of `disk`, see Gate */
  readonly generation: number;
}

export interface InspectorAnswer {
  readonly id: number;
  /** null: there is another disk by now, or the mount ends */
  readonly report: DiskReport | null;
  readonly error?: string;
}

/** Called if the thread has died, with what locks know it by. */
type NoteDeath = (error: Error, threadId: number, slot: number) => void;

const THREAD_URL = new URL('./inspector-thread.js', import.meta.url);

export class DiskInspector {
  private readonly noteDeath: NoteDeath;
  private worker: Worker | null = null;
  private idle: NodeJS.Timeout | undefined;
  private lastId = 0;
  private readonly pending = new Map<number, (answer: InspectorAnswer | Error) => void>();
  private ended: Promise<void> = Promise.resolve();

  constructor(noteDeath: NoteDeath) {
    this.noteDeath = noteDeath;
  }

  /** @returns null if the disk was exchanged or the mount ends @throws Error that it cannot be told in time, or why not */
  async inspect(what: InspectedDisk): Promise<DiskReport | null> {
    clearTimeout(this.idle);
    const worker = this.worker ?? this.start(what.slot);
    const id = ++this.lastId;
    const answer = await new Promise<InspectorAnswer | Error>((resolve) => {
      const timer = setTimeout(() => resolve(new Error(`no answer within ${LIMIT_MS / 1000} s`)), LIMIT_MS);
      this.pending.set(id, (given) => {
        clearTimeout(timer);
        resolve(given);
      });
      worker.postMessage({ id, what });
    });
    if (this.pending.size === 0) this.idle = setTimeout(() => this.end(), IDLE_MS).unref();
    if (answer instanceof Error) throw answer;
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer.report;
  }

  /** Lets the thread end. Resolves when it does not look into the disk any more. */
  async end(): Promise<void> {
    clearTimeout(this.idle);
    this.worker?.postMessage(null);
    this.worker = null;
    await this.ended;
  }

  private start(slot: number): Worker {
    const worker = new Worker(THREAD_URL, THREAD_OPTIONS);
    const { threadId } = worker;
    // it has nothing to finish when the process ends
    worker.unref();
    this.worker = worker;
    let failure: Error | null = null;
    worker.on('error', (error) => {
      failure = error instanceof Error ? error : new Error(String(error));
    });
    worker.on('message', (answer: InspectorAnswer) => this.settle(answer.id, answer));
    this.ended = new Promise((resolve) => {
      worker.on('exit', (code) => {
        const isExpected = this.worker !== worker && code === 0;
        if (this.worker === worker) this.worker = null;
        const error = failure ?? new Error(`the thread that looks into the disk ended with code ${code}`);
        if (!isExpected) this.noteDeath(error, threadId, slot);
        for (const id of [...this.pending.keys()]) this.settle(id, error);
        resolve();
      });
    });
    return worker;
  }

  private settle(id: number, answer: InspectorAnswer | Error): void {
    const give = this.pending.get(id);
    this.pending.delete(id);
    give?.(answer);
  }
}
