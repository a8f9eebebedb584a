// PendingLinks: data clusters that are written but not yet linked, because their data must be durable first (R6). Lookups
// ask here before the tables. All of it is used under the metadata lock. A batch is linked by taking `count` before the
// fdatasync, and what is live of the first `count` entries after it: what was added meanwhile stays for the next batch.
// A cluster with subclusters may wait more than once, each entry with all that the ones before it say; the last one counts.

import { type GuestCluster, type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';

const COUNT = 0;
const LIVE = 1;
const DEAD = -1;
/** Links are held back for at most this long (plus one turn of the keeper thread): the window of R9. */
const HOLD_BACK_MS = 500;
/** The host offset of what does not wait; 0 is a place in an external data file. */
export const NOT_PENDING = hostOffset(-1);
/** Numbers of an entry. */
const STRIDE = 5;
const GUEST = 0;
const HOST = 1;
const ADDED = 2;
const ALLOCATED = 3;
const ZERO = 4;
const ALL_SUBCLUSTERS = 0xffffffff;

export interface PendingLinksState {
  readonly capacity: number;
  readonly control: SharedArrayBuffer;
  /** guest cluster, host offset (or -1 when it was dropped), time added, both subcluster words, for each entry in order */
  readonly entries: SharedArrayBuffer;
  /** hash chains: heads, then the successor of each entry; entry + 1, 0 ends a chain */
  readonly links: SharedArrayBuffer;
}

export function createPendingLinksState(capacity: number): PendingLinksState {
  return {
    capacity,
    control: new SharedArrayBuffer(8),
    entries: new SharedArrayBuffer(capacity * STRIDE * 8),
    links: new SharedArrayBuffer(capacity * 2 * 4),
  };
}

/** @typeParam Index what the links lead from: guest clusters, or the numbers of L1 entries */
export interface PendingLink<Index extends number = GuestCluster> {
  readonly guestCluster: Index;
  readonly hostOffset: HostOffset;
  /** words of the subclusters with data and of those that read as zeros; all and none without subclusters */
  readonly allocated: number;
  readonly zero: number;
}

export class PendingLinks<Index extends number = GuestCluster> {
  /** subcluster words of what the last successful find() found */
  allocated = ALL_SUBCLUSTERS;
  zero = 0;
  private readonly capacity: number;
  private readonly control: Int32Array;
  private readonly entries: Float64Array;
  private readonly heads: Int32Array;
  private readonly next: Int32Array;

  constructor(state: PendingLinksState) {
    this.capacity = state.capacity;
    this.control = new Int32Array(state.control);
    this.entries = new Float64Array(state.entries);
    this.heads = new Int32Array(state.links, 0, state.capacity);
    this.next = new Int32Array(state.links, state.capacity * 4, state.capacity);
  }

  /** Entries in order of arrival, dropped ones included. */
  get count(): number {
    return this.control[COUNT]!;
  }

  get isEmpty(): boolean {
    return this.control[COUNT] === 0;
  }

  hasRoom(more: number): boolean {
    return this.count + more <= this.capacity;
  }

  /** When the oldest entry came, in steadyMs(); Infinity when there is none. */
  oldestMs(): number {
    return this.isEmpty ? Number.POSITIVE_INFINITY : this.entries[ADDED]!;
  }

  /** The oldest entry has waited for as long as any may. @param nowMs of steadyMs() */
  isOverdue(nowMs: number): boolean {
    return this.oldestMs() <= nowMs - HOLD_BACK_MS;
  }

  /** Host offset of a guest cluster that waits for its link, or NOT_PENDING. @param count looks at so many entries only */
  find(guestCluster: Index, count = this.count): HostOffset {
    if (this.control[LIVE] === 0) return NOT_PENDING;
    const entry = this.locate(guestCluster, count);
    if (entry < 0) return NOT_PENDING;
    this.allocated = this.entries[entry * STRIDE + ALLOCATED]!;
    this.zero = this.entries[entry * STRIDE + ZERO]!;
    return this.hostOf(entry);
  }

  /** How many guest clusters from this one on, of at most `count`, do not wait. */
  countFree(guestCluster: Index, count: number): number {
    if (this.control[LIVE] === 0) return count;
    const entries = this.count;
    for (let i = 0; i < count; i++) if (this.locate(guestCluster + i, entries) >= 0) return i;
    return count;
  }

  add(guestCluster: Index, host: HostOffset, nowMs: number, allocated = ALL_SUBCLUSTERS, zero = 0): void {
    assert(this.hasRoom(1), 'pending links overflow');
    const waiting = this.locate(guestCluster, this.count);
    assert(waiting < 0 || this.entries[waiting * STRIDE + HOST] === host, 'a guest cluster waits for one host cluster');
    const entry = this.count;
    this.entries[entry * STRIDE + GUEST] = guestCluster;
    this.entries[entry * STRIDE + HOST] = host;
    this.entries[entry * STRIDE + ADDED] = nowMs;
    this.entries[entry * STRIDE + ALLOCATED] = allocated;
    this.entries[entry * STRIDE + ZERO] = zero;
    this.chain(entry);
    this.control[COUNT] = entry + 1;
    this.control[LIVE] = this.control[LIVE]! + 1;
  }

  /** Forgets what waits for a guest cluster in the first `count` entries. @returns its host offset, or NOT_PENDING */
  drop(guestCluster: Index, count = this.count): HostOffset {
    let host = NOT_PENDING;
    if (this.control[LIVE] === 0) return host;
    for (let entry = this.locate(guestCluster, count); entry >= 0; entry = this.locate(guestCluster, count, entry)) {
      host = this.hostOf(entry);
      this.entries[entry * STRIDE + HOST] = DEAD;
      this.control[LIVE] = this.control[LIVE]! - 1;
    }
    return host;
  }

  /** The live ones of the first `count` entries, in guest order, and of each guest cluster the last. */
  first(count: number): PendingLink<Index>[] {
    const links: PendingLink<Index>[] = [];
    for (let entry = 0; entry < count; entry++) {
      const at = entry * STRIDE;
      if (this.entries[at + HOST] === DEAD) continue;
      const guestCluster = this.entries[at + GUEST] as Index;
      const [allocated, zero] = [this.entries[at + ALLOCATED]!, this.entries[at + ZERO]!];
      links.push({ guestCluster, hostOffset: this.hostOf(entry), allocated, zero });
    }
    links.sort((a, b) => a.guestCluster - b.guestCluster);
    return links.filter((link, i) => links[i + 1]?.guestCluster !== link.guestCluster);
  }

  /** The guest clusters of the live ones of the first `count` entries, as they came; one with subclusters perhaps more than once. */
  indicesOfFirst(count: number): Float64Array {
    const indices = new Float64Array(count);
    let live = 0;
    for (let at = 0; at < count * STRIDE; at += STRIDE) {
      if (this.entries[at + HOST] !== DEAD) indices[live++] = this.entries[at + GUEST]!;
    }
    return indices.subarray(0, live);
  }

  /** Removes the first `count` entries and keeps the later ones in their order. */
  removeFirst(count: number): void {
    const kept = this.count - count;
    this.entries.copyWithin(0, count * STRIDE, this.count * STRIDE);
    this.heads.fill(0);
    this.control[COUNT] = kept;
    let live = 0;
    for (let entry = 0; entry < kept; entry++) {
      if (this.entries[entry * STRIDE + HOST] === DEAD) continue;
      this.chain(entry);
      live++;
    }
    this.control[LIVE] = live;
  }

  private hostOf(entry: number): HostOffset {
    return hostOffset(this.entries[entry * STRIDE + HOST]!);
  }

  private chain(entry: number): void {
    const bucket = this.bucket(this.entries[entry * STRIDE + GUEST]!);
    this.next[entry] = this.heads[bucket]!;
    this.heads[bucket] = entry + 1;
  }

  /** The last live one of the first `count` entries, before entry `after` of the chain: chains begin with what came last. */
  private locate(guestCluster: number, count: number, after = -1): number {
    const first = after < 0 ? this.heads[this.bucket(guestCluster)]! : this.next[after]!;
    for (let entry = first - 1; entry >= 0; entry = this.next[entry]! - 1) {
      if (entry >= count || this.entries[entry * STRIDE + GUEST] !== guestCluster) continue;
      if (this.entries[entry * STRIDE + HOST] !== DEAD) return entry;
    }
    return -1;
  }

  private bucket(guestCluster: number): number {
    return guestCluster % this.capacity;
  }
}
