// Writes into clusters that cannot be written in place: unallocated, zero, compressed, or shared with a snapshot. New
// clusters get the guest's bytes and, around them, what the guest read there before (copy-on-write); their links wait for
// the fdatasync that makes counters and data durable (flush.ts), so a crash shows the old content or the new one.

import { roundUp } from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { PendingLinks } from '../pending-links.ts';
import type { Allocator } from './allocate.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import type { GuestData } from './guest-data.ts';
import type { Linker } from './link.ts';

/** Clusters allocated at once; fewer than the links that can be held back. */
const MAX_RUN_CLUSTERS = 4096;
const BOUNCE_BYTES = 1024 * 1024;

export interface AllocatingWriteParts {
  readonly data: GuestData;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly flush: Flush;
  /** Reads what the disk holds, for the range that this thread has reserved, without the lock. */
  readonly readReserved: (target: Uint8Array, targetOffset: number, length: number, offset: number) => void;
  /** The range is known to read as zeros, here and below; without the lock. */
  readonly readsAsZeros: (offset: number, length: number) => boolean;
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;
  private bounceBuffer: Uint8Array | null = null;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
  }

  /**
   * The clusters are reserved exclusively; the lock is held, is released meanwhile and is held again on return. May do only
   * the first clusters of the range. @returns bytes written
   */
  write(source: Uint8Array, sourceOffset: number, length: number, offset: number): number {
    const { allocator, data, geometry, linker, lock } = this.parts;
    const { clusterSize } = geometry;
    const firstCluster = Math.floor(offset / clusterSize);
    const wanted = Math.ceil((offset + length) / clusterSize) - firstCluster;
    const { offset: host, count, readsAsZeros } = allocator.allocate(Math.min(wanted, MAX_RUN_CLUSTERS));
    const start = firstCluster * clusterSize;
    const end = start + count * clusterSize;
    const part = Math.min(offset + length, end) - offset;
    try {
      lock.unlock();
      // units that the guest writes a part of are filled whole first
      const head = roundUp(offset, data.unit);
      const tail = Math.max(head, offset + part - ((offset + part) % data.unit));
      this.fill(start, head - start, host, readsAsZeros);
      this.fill(tail, end - tail, host + (tail - start), readsAsZeros);
      data.write(source, sourceOffset, part, host + (offset - start), offset);
      lock.lock();
      this.makeRoom(firstCluster, count);
      linker.hold(firstCluster, host, count, Date.now());
    } catch (error) {
      if (!lock.held) lock.lock();
      allocator.giveBack(host, count);
      throw error;
    }
    return part;
  }

  /** What the guest does not write in the new clusters: old content, or zeros where there may be something else. */
  private fill(offset: number, length: number, host: number, isFresh: boolean): void {
    if (length === 0) return;
    const { data } = this.parts;
    if (this.parts.readsAsZeros(offset, length)) {
      data.zero(length, host, offset, isFresh);
      return;
    }
    this.bounceBuffer ??= new Uint8Array(BOUNCE_BYTES);
    for (let done = 0; done < length; ) {
      const part = Math.min(BOUNCE_BYTES, length - done);
      this.parts.readReserved(this.bounceBuffer, 0, part, offset + done);
      data.write(this.bounceBuffer, 0, part, host + done, offset + done);
      done += part;
    }
  }

  private makeRoom(firstCluster: number, count: number): void {
    const { flush, linker, lock, pending, pendingTables } = this.parts;
    while (!pending.hasRoom(count) || !pendingTables.hasRoom(linker.tablesTouched(firstCluster, count))) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
  }
}
