// References that were removed and whose counters still wait (R5): a counter goes down only after the removal is durable, so
// that a crash leaves a leak and never a cluster that is free and still referred to. A log of runs, used under the metadata
// lock: a round of the flush takes all that is there, syncs, and removes what it has carried out.

import { type HostCluster, hostCluster } from '../../../bytes/offsets.ts';
import { assert } from '../../../errors/index.ts';

const COUNT = 0;
/** runs of the log that a round is carrying out: they stay as they are */
const TAKEN = 1;
const WORD_COUNT = 2;
const DEFAULT_CAPACITY = 65536;
/** Runs beyond the capacity, for tables that move, which look for no room. */
const SPARE = 256;

export interface DeferredDecrementsState {
  readonly capacity: number;
  readonly words: SharedArrayBuffer;
  /** first cluster and number of clusters of each run */
  readonly runs: SharedArrayBuffer;
}

export function createDeferredDecrementsState(capacity = DEFAULT_CAPACITY): DeferredDecrementsState {
  return {
    capacity,
    words: new SharedArrayBuffer(WORD_COUNT * 4),
    runs: new SharedArrayBuffer((capacity + SPARE) * 16),
  };
}

export interface DeferredDecrement {
  readonly start: HostCluster;
  readonly count: number;
}

export class DeferredDecrements {
  private readonly capacity: number;
  private readonly words: Int32Array;
  private readonly runs: Float64Array;

  constructor(state: DeferredDecrementsState) {
    this.capacity = state.capacity;
    this.words = new Int32Array(state.words);
    this.runs = new Float64Array(state.runs);
  }

  get count(): number {
    return this.words[COUNT]!;
  }

  /** Room for `more` runs; a flush makes room. */
  hasRoom(more: number): boolean {
    return this.count + more <= this.capacity;
  }

  /** One reference to each of `count` clusters from `start` on is gone. */
  add(start: HostCluster, count: number): void {
    const last = this.count - 1;
    if (last >= this.words[TAKEN]! && this.runs[last * 2]! + this.runs[last * 2 + 1]! === start) {
      this.runs[last * 2 + 1] = this.runs[last * 2 + 1]! + count;
      return;
    }
    assert(this.count < this.capacity + SPARE, 'the log of deferred decrements overflows');
    this.runs[(last + 1) * 2] = start;
    this.runs[(last + 1) * 2 + 1] = count;
    this.words[COUNT] = last + 2;
  }

  /** A round begins with all that is in the log; it stays in the log until remove(). @returns how many runs */
  beginRound(): number {
    this.words[TAKEN] = this.count;
    return this.count;
  }

  /** One of the runs that the round has begun with. They do not change until remove(), so this needs no lock. */
  taken(position: number): DeferredDecrement {
    return { start: hostCluster(this.runs[position * 2]!), count: this.runs[position * 2 + 1]! };
  }

  /** The first `runs` runs are carried out, and `clusters` of the next; the rest waits for another round. */
  remove(runs: number, clusters = 0): void {
    this.runs.copyWithin(0, runs * 2, this.count * 2);
    this.words[COUNT] = this.count - runs;
    this.words[TAKEN] = 0;
    if (clusters === 0) return;
    this.runs[0] = this.runs[0]! + clusters;
    this.runs[1] = this.runs[1]! - clusters;
  }
}
