// The network thread's side of the block cache: takes what is queued, in requests of adjoining blocks, and fills it in as
// it arrives, so that a reader waits for its block and not for the request. One request is always left for blocks that a
// reader waits for; reading ahead uses the others.

import { closeAll } from '../../errors/close.ts';
import type { BlockCacheState } from '../shared-file.ts';
import { BlockCache, LOADING, QUEUED, READY } from './block-cache.ts';
import { fetchErrorOf } from './fetch-error.ts';
import type { HttpLimits } from './limits.ts';
import type { RangeClient } from './range-client.ts';

interface Run {
  readonly first: number;
  /** slots of adjoining blocks */
  readonly slots: readonly number[];
}

export class BlockLoader {
  private readonly cache: BlockCache;
  private readonly client: RangeClient;
  private readonly limits: HttpLimits;
  private underWay = 0;
  private failures = 0;

  constructor(state: BlockCacheState, url: string, client: RangeClient, limits: HttpLimits) {
    this.cache = new BlockCache(state, url);
    this.client = client;
    this.limits = limits;
    this.count();
  }

  /** The first block, which came when the file was opened. */
  seed(head: Uint8Array): void {
    const { cache } = this;
    cache.lock.run(() => {
      if (head.length === 0) return;
      const slot = cache.insert(0, READY);
      cache.bytes.set(head, slot * cache.state.blockBytes);
    });
  }

  /** Serves the queue until close. */
  async serve(): Promise<void> {
    const { requests } = this.cache;
    while (!this.cache.isClosed) {
      const seen = requests.count;
      this.pump();
      await requests.waitAsync(seen);
    }
  }

  /** Readers that wait get an error. */
  close(): void {
    // readers sleep until the cache says that it is closed
    closeAll([this.cache, this.client]);
  }

  private pump(): void {
    const { parallelRequests } = this.limits;
    while (this.underWay < parallelRequests && !this.cache.isClosed) {
      const run = this.cache.lock.run(() => this.take(this.underWay >= parallelRequests - 1));
      if (run === null) return;
      this.underWay++;
      void this.load(run).finally(() => {
        this.underWay--;
        this.pump();
      });
    }
  }

  /** The queued blocks from the lowest one on that a reader waits for, else from the lowest one on. */
  private take(onlyAwaited: boolean): Run | null {
    const { cache } = this;
    let first = Number.POSITIVE_INFINITY;
    let isAwaited = false;
    for (let slot = 0; slot < cache.state.capacity; slot++) {
      if (cache.stateOf(slot) !== QUEUED) continue;
      const awaited = cache.pinsOf(slot) > 0;
      const block = cache.blockOf(slot);
      if (awaited === isAwaited ? block >= first : isAwaited) continue;
      first = block;
      isAwaited = awaited;
    }
    if (first === Number.POSITIVE_INFINITY || (onlyAwaited && !isAwaited)) return null;
    const slots: number[] = [];
    const most = Math.max(1, Math.floor(this.limits.requestBytes / cache.state.blockBytes));
    for (let slot = cache.find(first); slot >= 0 && slots.length < most; slot = cache.find(first + slots.length)) {
      if (cache.stateOf(slot) !== QUEUED) break;
      cache.setState(slot, LOADING);
      slots.push(slot);
    }
    return { first, slots };
  }

  private async load({ first, slots }: Run): Promise<void> {
    const { cache } = this;
    const { blockBytes, length } = cache.state;
    const start = first * blockBytes;
    const end = Math.min(start + slots.length * blockBytes, length);
    let whole = 0;
    try {
      await this.client.read(start, end, (chunk, offset) => {
        for (let done = 0; done < chunk.length; ) {
          const index = Math.floor((offset + done) / blockBytes);
          const inBlock = (offset + done) % blockBytes;
          const part = Math.min(blockBytes - inBlock, chunk.length - done);
          cache.bytes.set(chunk.subarray(done, done + part), slots[index]! * blockBytes + inBlock);
          done += part;
          if (inBlock + part === cache.lengthOf(first + index)) whole = this.arrived(slots, whole, index + 1);
        }
      });
    } catch (error) {
      this.failures++;
      const { message } = fetchErrorOf(error);
      cache.lock.run(() => {
        const number = cache.storeError(message);
        for (const slot of slots.slice(whole)) cache.fail(slot, number);
      });
    }
    this.count();
    cache.arrivals.wake();
  }

  /** The blocks [from, to) of a run are complete. @returns `to` */
  private arrived(slots: readonly number[], from: number, to: number): number {
    const { cache } = this;
    cache.lock.run(() => {
      for (const slot of slots.slice(from, to)) cache.setState(slot, READY);
      cache.endSilence();
    });
    this.count();
    cache.arrivals.wake();
    return to;
  }

  private count(): void {
    this.cache.setTraffic({ ...this.client.traffic, failures: this.failures });
  }
}
