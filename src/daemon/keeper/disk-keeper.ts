// The thread that keeps the disk (keeper-thread.ts) as the main thread, which runs this file, sees it: every call is a promise,
// so that signals, the control socket and timers are served while an image is opened, repaired, handed over or closed.
// Invariant: descriptors outlive the thread that opened them, because other threads still write to them when it dies.

import { Worker } from 'node:worker_threads';
import type { OpenDiskOptions, OpenStep, SharedDisk } from '../../disk/index.ts';
import type { PasswordSource } from '../../host/passwords.ts';
import type { Log, LogLevel } from '../log.ts';
import { THREAD_OPTIONS } from '../workers/threads.ts';
import { receiveError, type SentError } from './sent-error.ts';

/** What an open needs, as plain data. */
export interface OpenRequest {
  /** as the user named it */
  readonly path: string;
  readonly options: Omit<OpenDiskOptions, 'password' | 'log' | 'progress'>;
  readonly passwords: PasswordSource;
  /** the number of the partition that is wanted; null: the whole disk */
  readonly partition: number | null;
  /** of ServingWords: the background work ends when the mount does */
  readonly words: Int32Array;
}

/** A disk that the keeper has opened: what a mount has to know of it before it answers, and what threads attach to. */
export interface KeptDisk {
  readonly shared: SharedDisk;
  /** absolute, or a URL, as those of the images below it */
  readonly path: string;
  readonly backing: readonly string[];
  /** as DiskStatus */
  readonly isBackingWritable: boolean;
  readonly format: string;
  readonly readOnly: boolean;
  readonly hasSnapshots: boolean;
  /** the bytes that the mount shows; null: all of them */
  readonly part: { readonly start: number; readonly size: number } | null;
  readonly modifiedMs: number | null;
}

/** How an image is opened anew: the rest is as it was. */
export interface Reopening {
  readonly readOnly: boolean;
  /** not taken where none were taken at first */
  readonly locks: 'take' | 'share';
}

export type KeeperCall =
  | { readonly type: 'open'; readonly request: OpenRequest }
  /** the keeper before this one has died with its disk open */
  | { readonly type: 'adopt-dead'; readonly disk: SharedDisk; readonly slot: number }
  /** open the image a second time, beside the disk */
  | { readonly type: 'reopen'; readonly how: Reopening }
  /** close the disk, and keep the second one instead */
  | { readonly type: 'take' }
  /** close the second one */
  | { readonly type: 'drop' }
  | { readonly type: 'close-and-reopen'; readonly how: Reopening }
  /** make durable what can be, and call nothing clean */
  | { readonly type: 'rescue' }
  /** the last call; `withdraw`: nobody could use the disk, so an overlay that was made for it goes again */
  | { readonly type: 'close'; readonly withdraw: boolean };

export interface KeeperAnswer {
  readonly type: 'answer';
  readonly id: number;
  readonly value: unknown;
  readonly error: SentError | null;
}

export type KeeperMessage =
  | KeeperAnswer
  | { readonly type: 'step'; readonly step: OpenStep }
  | { readonly type: 'log'; readonly level: LogLevel; readonly sentence: string };

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

const THREAD_URL = new URL('./keeper-thread.js', import.meta.url);

export class DiskKeeper {
  /** of this thread, as locks know it */
  readonly threadId: number;
  /** resolves with the error, or the exit code as an error, when the thread has ended before it was asked to close */
  readonly died: Promise<Error>;
  /** what the open that is under way is doing */
  step: OpenStep | null = null;
  onStep: (step: OpenStep) => void = () => undefined;
  log: Log = () => undefined;
  private readonly worker: Worker;
  private readonly pending = new Map<number, Pending>();
  private lastId = 0;
  private isClosing = false;
  private end: Error | null = null;

  /** Starts the thread, which loads its modules while the caller goes on. */
  constructor() {
    this.worker = new Worker(THREAD_URL, { ...THREAD_OPTIONS, trackUnmanagedFds: false });
    this.threadId = this.worker.threadId;
    this.worker.on('message', (message: KeeperMessage) => this.receive(message));
    let failure: Error | null = null;
    this.worker.on('error', (error) => {
      failure = error instanceof Error ? error : new Error(String(error));
    });
    this.died = new Promise((resolve) => {
      this.worker.on('exit', (code) => {
        const error = failure ?? new Error(`the thread that keeps the disk ended with code ${code}`);
        this.end = error;
        // before the calls fail: their callers shall see a crash, and not an error of their own
        if (!this.isClosing || this.isBusy) resolve(error);
        for (const { reject } of this.pending.values()) reject(error);
        this.pending.clear();
      });
    });
  }

  get isDead(): boolean {
    return this.end !== null;
  }

  /** A call is under way. */
  get isBusy(): boolean {
    return this.pending.size > 0;
  }

  /** @throws ImgfuseError why it cannot be opened; nothing is open then */
  open(request: OpenRequest): Promise<KeptDisk> {
    return this.call({ type: 'open', request }) as Promise<KeptDisk>;
  }

  async adoptDead(disk: SharedDisk, slot: number): Promise<void> {
    await this.call({ type: 'adopt-dead', disk, slot });
  }

  /** Opens the image a second time; `take` or `drop` follows. @throws ImgfuseError; the disk is what it was */
  reopen(how: Reopening): Promise<SharedDisk> {
    return this.call({ type: 'reopen', how }) as Promise<SharedDisk>;
  }

  async take(): Promise<void> {
    await this.call({ type: 'take' });
  }

  async drop(): Promise<void> {
    await this.call({ type: 'drop' });
  }

  /** @returns the disk, and why the one before is not clean, if so @throws ImgfuseError when there is no disk any more */
  async closeAndReopen(how: Reopening): Promise<{ readonly disk: SharedDisk; readonly failure: Error | null }> {
    const answer = await this.call({ type: 'close-and-reopen', how });
    const { disk, failure } = answer as { disk: SharedDisk; failure: SentError | null };
    return { disk, failure: failure === null ? null : receiveError(failure) };
  }

  /** @throws ImgfuseError what could not be made durable */
  async rescue(): Promise<void> {
    await this.call({ type: 'rescue' });
  }

  /**
   * Flushes, marks clean, closes; the thread ends.
   * @param withdraw the disk could not be mounted: an overlay that was made for it, and is empty, is removed again
   * @returns bytes of the disk that its image has; null if none was open @throws ImgfuseError when the image is not clean
   */
  close(withdraw: boolean): Promise<number | null> {
    this.isClosing = true;
    return this.call({ type: 'close', withdraw }) as Promise<number | null>;
  }

  /** Ends a thread that has not been asked to open anything. */
  async discard(): Promise<void> {
    this.isClosing = true;
    await this.worker.terminate();
  }

  private call(call: KeeperCall): Promise<unknown> {
    if (this.end !== null) return Promise.reject(this.end);
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject });
      this.worker.postMessage({ id, call });
    });
  }

  private receive(message: KeeperMessage): void {
    if (message.type === 'log') return this.log(message.level, message.sentence);
    if (message.type === 'step') {
      this.step = message.step;
      return this.onStep(message.step);
    }
    const pending = this.pending.get(message.id);
    this.pending.delete(message.id);
    this.step = null;
    if (message.error === null) pending?.resolve(message.value);
    else pending?.reject(receiveError(message.error));
  }
}
