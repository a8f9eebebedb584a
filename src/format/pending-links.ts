// PendingLinks: data clusters that are written but not yet linked, because their data must be durable first (R6). Lookups
// ask here before the tables. All of it is used under the metadata lock. A batch is linked by taking `count` before the
// fdatasync and `first(count)` with `removeFirst(count)` after it: what was added meanwhile stays for the next batch.

import { assert } from '../errors/index.ts';

const COUNT = 0;
const LIVE = 1;
const DEAD = -1;

export interface PendingLinksState {
  readonly capacity: number;
  readonly control: SharedArrayBuffer;
  /** guest cluster, host offset (or -1 when it was dropped), time added, for each entry in order */
  readonly entries: SharedArrayBuffer;
  /** hash chains: heads, then the successor of each entry; entry + 1, 0 ends a chain */
  readonly links: SharedArrayBuffer;
}

export function createPendingLinksState(capacity: number): PendingLinksState {
  return {
    capacity,
    control: new SharedArrayBuffer(8),
    entries: new SharedArrayBuffer(capacity * 3 * 8),
    links: new SharedArrayBuffer(capacity * 2 * 4),
  };
}

export interface PendingLink {
  readonly guestCluster: number;
  readonly hostOffset: number;
}

export class PendingLinks {
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

  /** When the oldest entry came, in ms of Date.now(); Infinity when there is none. */
  oldestMs(): number {
    return this.isEmpty ? Number.POSITIVE_INFINITY : this.entries[2]!;
  }

  /** Host offset of a guest cluster that waits for its link, or 0. */
  find(guestCluster: number): number {
    if (this.control[LIVE] === 0) return 0;
    const entry = this.locate(guestCluster);
    return entry < 0 ? 0 : this.entries[entry * 3 + 1]!;
  }

  add(guestCluster: number, hostOffset: number, nowMs: number): void {
    assert(this.hasRoom(1), 'pending links overflow');
    assert(this.locate(guestCluster) < 0, 'a guest cluster waits for one link');
    const entry = this.count;
    this.entries[entry * 3] = guestCluster;
    this.entries[entry * 3 + 1] = hostOffset;
    this.entries[entry * 3 + 2] = nowMs;
    this.chain(entry);
    this.control[COUNT] = entry + 1;
    this.control[LIVE] = this.control[LIVE]! + 1;
  }

  /** Forgets the link of a guest cluster. @returns its host offset, or 0 when there was none */
  drop(guestCluster: number): number {
    const entry = this.control[LIVE] === 0 ? -1 : this.locate(guestCluster);
    if (entry < 0) return 0;
    const host = this.entries[entry * 3 + 1]!;
    this.entries[entry * 3 + 1] = DEAD;
    this.control[LIVE] = this.control[LIVE]! - 1;
    return host;
  }

  /** The live ones of the first `count` entries, in guest order. */
  first(count: number): PendingLink[] {
    const links: PendingLink[] = [];
    for (let entry = 0; entry < count; entry++) {
      const hostOffset = this.entries[entry * 3 + 1]!;
      if (hostOffset !== DEAD) links.push({ guestCluster: this.entries[entry * 3]!, hostOffset });
    }
    return links.sort((a, b) => a.guestCluster - b.guestCluster);
  }

  /** Removes the first `count` entries and keeps the later ones in their order. */
  removeFirst(count: number): void {
    const kept = this.count - count;
    this.entries.copyWithin(0, count * 3, this.count * 3);
    this.heads.fill(0);
    this.control[COUNT] = kept;
    let live = 0;
    for (let entry = 0; entry < kept; entry++) {
      if (this.entries[entry * 3 + 1] === DEAD) continue;
      this.chain(entry);
      live++;
    }
    this.control[LIVE] = live;
  }

  private chain(entry: number): void {
    const bucket = this.bucket(this.entries[entry * 3]!);
    this.next[entry] = this.heads[bucket]!;
    this.heads[bucket] = entry + 1;
  }

  private locate(guestCluster: number): number {
    for (let entry = this.heads[this.bucket(guestCluster)]! - 1; entry >= 0; entry = this.next[entry]! - 1) {
      if (this.entries[entry * 3] === guestCluster && this.entries[entry * 3 + 1] !== DEAD) return entry;
    }
    return -1;
  }

  private bucket(guestCluster: number): number {
    return guestCluster % this.capacity;
  }
}
