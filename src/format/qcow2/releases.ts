// References that were removed and whose counters still wait (R5): a counter goes down only after the removal is durable, so
// that a crash leaves a leak and never a cluster that is free and still referred to. A log of runs, used under the metadata
// lock; a flush takes the count after its last removal, syncs, and then carries out that many.

import { assert } from '../../errors/index.ts';

const COUNT = 0;
const DEFAULT_CAPACITY = 65536;

export interface ReleasesState {
  readonly capacity: number;
  readonly words: SharedArrayBuffer;
  /** first cluster and number of clusters of each run */
  readonly runs: SharedArrayBuffer;
}

export function createReleasesState(capacity = DEFAULT_CAPACITY): ReleasesState {
  return { capacity, words: new SharedArrayBuffer(4), runs: new SharedArrayBuffer(capacity * 16) };
}

export interface Release {
  readonly start: number;
  readonly count: number;
}

export class Releases {
  private readonly capacity: number;
  private readonly words: Int32Array;
  private readonly runs: Float64Array;

  constructor(state: ReleasesState) {
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
  add(start: number, count: number): void {
    const last = this.count - 1;
    if (last >= 0 && this.runs[last * 2]! + this.runs[last * 2 + 1]! === start) {
      this.runs[last * 2 + 1] = this.runs[last * 2 + 1]! + count;
      return;
    }
    assert(this.hasRoom(1), 'the log of releases overflows');
    this.runs[(last + 1) * 2] = start;
    this.runs[(last + 1) * 2 + 1] = count;
    this.words[COUNT] = last + 2;
  }

  /** Takes everything out of the log. */
  takeAll(): Release[] {
    const taken: Release[] = [];
    for (let i = 0; i < this.count; i++) taken.push({ start: this.runs[i * 2]!, count: this.runs[i * 2 + 1]! });
    this.words[COUNT] = 0;
    return taken;
  }

  /** Puts runs back whose counters could not be written. */
  putBack(releases: readonly Release[]): void {
    for (const { start, count } of releases) this.add(start, count);
  }
}
