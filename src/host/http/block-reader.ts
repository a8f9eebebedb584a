// The readers' side of the block cache: copies what is there, queues what is not and sleeps until it has come, and reads
// ahead of a sequential reader. The window doubles each time its first block, which carries the mark, is read.

import { steadyMs } from '../../concurrency/clock.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { type BlockCache, FAILED, QUEUED, READY } from './block-cache.ts';

/** Blocks of one read that are queued at once. */
const DEMAND_BLOCKS = 16;
/** Pause before a reader looks again for a slot that it may take. */
const FULL_MS = 5;
/** How often a reader that waits looks whether the network thread still lives. */
const LOOK_MS = 1000;

export class BlockReader {
  private readonly cache: BlockCache;
  private readonly path: string;

  /** when the kernel's request in hand began; null if there is none */
  private beganMs: number | null = null;

  constructor(cache: BlockCache, path: string) {
    this.cache = cache;
    this.path = path;
  }

  /** Reads from now on serve a new request of the kernel, which must be answered in time. */
  requestBegins(): void {
    if (Number.isFinite(this.cache.state.answerMs)) this.beganMs = steadyMs();
  }

  /** Reads [offset, offset + length), which lies inside the file. Throws ImgfuseError io */
  read(target: Uint8Array, targetOffset: number, length: number, offset: number): void {
    const { blockBytes } = this.cache.state;
    const last = Math.floor((offset + length - 1) / blockBytes);
    for (let done = 0; done < length; ) {
      const block = Math.floor((offset + done) / blockBytes);
      const inBlock = (offset + done) % blockBytes;
      const part = Math.min(blockBytes - inBlock, length - done);
      this.cache.lock.run(() => this.copy(block, last, inBlock, target, targetOffset + done, part));
      done += part;
    }
  }

  /** The lock is held; it is released while the block is on its way. @param last block of this read, so that it is queued, too */
  private copy(
    block: number,
    last: number,
    inBlock: number,
    target: Uint8Array,
    targetOffset: number,
    length: number,
  ): void {
    const { cache } = this;
    const slot = this.present(block, last);
    if (cache.stateOf(slot) !== READY) this.await(slot);
    const start = slot * cache.state.blockBytes + inBlock;
    target.set(cache.bytes.subarray(start, start + length), targetOffset);
    cache.noteUse(slot);
    if (cache.startsReadAhead(slot)) this.readFurther(slot, block);
  }

  /** The slot of a block, which is queued if it was not there. */
  private present(block: number, last: number): number {
    const { cache } = this;
    for (;;) {
      const found = cache.find(block);
      // a failed slot stays until its last reader has seen the error
      if (found >= 0) return found;
      const slot = cache.insert(block, QUEUED);
      if (slot >= 0) {
        const end = Math.min(last + 1, block + DEMAND_BLOCKS);
        this.queue(block + 1, end);
        const before = this.runBefore(block);
        if (before > 0) this.readAhead(end, Math.max(before, end - block));
        cache.requests.wake();
        return slot;
      }
      if (this.remainingMs() <= 0) throw this.lateError(block);
      cache.lookAfterLoader();
      if (cache.isClosed) throw this.aloneError(block);
      this.sleep(FULL_MS);
    }
  }

  /** How long this request may still wait, whatever arrives; the lock is held. */
  private remainingMs(): number {
    const { cache, beganMs } = this;
    const { answerMs } = cache.state;
    if (beganMs === null) return Number.POSITIVE_INFINITY;
    const nowMs = steadyMs();
    return Math.min(beganMs, cache.waitsAt(nowMs)) + answerMs - nowMs;
  }

  private lateError(block: number): ImgfuseError {
    const seconds = this.cache.state.answerMs / 1000;
    return this.error(block, `cannot be read: no request may wait longer than ${seconds} seconds for its server`);
  }

  private aloneError(block: number): ImgfuseError {
    const { isClosed, isLoaderAlive } = this.cache;
    const thread = 'the network thread of this process';
    if (!isLoaderAlive) return this.error(block, `cannot be read: ${thread} has died, and reading again does not help`);
    return this.error(block, `cannot be read: ${isClosed ? 'it is being closed' : `${thread} does not answer`}`);
  }

  private error(block: number, reason: string): ImgfuseError {
    const offset = block * this.cache.state.blockBytes;
    const last = offset + this.cache.lengthOf(block) - 1;
    return new ImgfuseError('io', `${this.path} ${reason} (bytes ${offset} to ${last})`, {
      path: this.path,
      offset,
      operation: 'read',
    });
  }

  /** Waits until the block of a slot is READY. Throws why it does not come. */
  private await(slot: number): void {
    const { cache } = this;
    const block = cache.blockOf(slot);
    cache.pin(slot);
    const isOver = (): boolean => cache.stateOf(slot) === READY || cache.stateOf(slot) === FAILED;
    const isLate = !this.sleepUntil(isOver);
    cache.unpin(slot);
    const state = cache.stateOf(slot);
    if (state === READY) return;
    if (state !== FAILED) throw isLate ? this.lateError(block) : this.aloneError(block);
    const reason = cache.errorOf(slot);
    if (cache.pinsOf(slot) === 0) cache.clear(slot);
    throw this.error(block, reason);
  }

  /** @returns false if this request must be answered before; true if the wait is over, or if nothing will come any more */
  private sleepUntil(isOver: () => boolean): boolean {
    const { cache } = this;
    const { silenceMs } = cache.state;
    let heardMs = steadyMs();
    while (!isOver() && !cache.isClosed) {
      const remainingMs = this.remainingMs();
      if (remainingMs <= 0) return false;
      const quietMs = steadyMs() - heardMs;
      if (quietMs >= silenceMs) return true;
      if (this.sleep(Math.min(LOOK_MS, silenceMs - quietMs, remainingMs)) !== 'timed-out') heardMs = steadyMs();
      else cache.lookAfterLoader();
    }
    return true;
  }

  private sleep(milliseconds: number): 'ok' | 'not-equal' | 'timed-out' {
    const { lock, arrivals } = this.cache;
    const seen = arrivals.count;
    // after the count was read: close() sets the word first and wakes then
    if (this.cache.isClosed) return 'not-equal';
    lock.unlock();
    try {
      return arrivals.wait(seen, milliseconds);
    } finally {
      lock.lock();
    }
  }

  private readFurther(slot: number, block: number): void {
    const { cache } = this;
    cache.setStartsReadAhead(slot, false);
    let end = block + 1;
    while (end - block <= cache.state.readAheadBlocks && cache.find(end) >= 0) end++;
    if (this.readAhead(end, 2 * (end - block))) cache.requests.wake();
  }

  /** Queues up to `count` blocks from `start` on and marks the first. @returns whether there were any */
  private readAhead(start: number, count: number): boolean {
    const { cache } = this;
    const end = Math.min(start + Math.min(count, cache.state.readAheadBlocks), cache.blockCount);
    if (end <= start) return false;
    this.queue(start, end);
    const slot = cache.find(start);
    if (slot >= 0) cache.setStartsReadAhead(slot, true);
    return true;
  }

  private queue(start: number, end: number): void {
    for (let block = start; block < end; block++) {
      if (this.cache.find(block) < 0 && this.cache.insert(block, QUEUED) < 0) return;
    }
  }

  /** Number of blocks right before this one that are here or on their way: how far a sequential reader has come. */
  private runBefore(block: number): number {
    const { cache } = this;
    let run = 0;
    while (run < cache.state.readAheadBlocks && run < block && cache.find(block - 1 - run) >= 0) run++;
    return run;
  }
}
