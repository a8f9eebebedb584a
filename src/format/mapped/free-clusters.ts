// Host clusters that nothing refers to, and how far each is on its way to reuse (R5). Used under the metadata lock. In QED a
// freed cluster takes two flushes until it is free. qcow2 waits in its own flush.ts, until the counter is 0 and the cluster is
// punched, and goes from USED to FREE in one step (markFree).
//
//   USED -> FREED      its last reference is gone from the tables, but that is not durable
//   FREED -> SETTLING  a flush has begun; when its fdatasync is done the clusters are punched
//   SETTLING -> FREE   the next flush's fdatasync has made the hole durable: it reads as zeros, like one never used
//   FREE -> USED       allocated again
//   USED -> GIVEN      linked to a guest cluster that reads as zeros, only because the format cannot note a free cluster; as
//                      long as it is a hole it can be FREED like any other
//
// Invariant: only a FREE cluster is ever handed out, and only SETTLING clusters are punched.

import { type HostCluster, hostCluster } from '../../bytes/offsets.ts';
import { createSharedByteMap, SharedByteMap, type SharedByteMapState } from '../../concurrency/shared-byte-map.ts';
import { assert, ImgfuseError } from '../../errors/index.ts';

const USED = 0;
const FREED = 1;
const SETTLING = 2;
const FREE = 3;
const GIVEN = 4;

/** Words: how many clusters are in each state (index = state), then the phase and the bounds of what is FREED, SETTLING or FREE. */
const PHASE = 5;
const LOWEST = 6;
/** exclusive */
const HIGHEST = 7;
/** no cluster below is FREE */
const FREE_HINT = 8;
const WORD_COUNT = 9;

export type SettlingPhase = 'none' | 'removal-durable-next' | 'hole-durable-next';
const PHASES: readonly SettlingPhase[] = ['none', 'removal-durable-next', 'hole-durable-next'];

/** Host clusters that can be tracked: 32 TiB of 64 KiB clusters. */
export const MAX_TRACKED_CLUSTERS = 2 ** 29;
/** Room for an image that grows: 1 TiB of 64 KiB clusters. */
const ROOM_CLUSTERS = 2 ** 24;

/**
 * How many host clusters a map of them covers. @param mayGrow false: the disk keeps its size; an image may consist of hundreds of such
 * files. Each is a byte of address space from the start, of which a process may have
 * little. What lies beyond is not tracked, and not reused until the image is opened again.
 */
export function trackedClusters(clusterSize: number, fileLength: number, virtualSize: number, mayGrow = true): number {
  const clusters = Math.ceil(fileLength / clusterSize) + Math.ceil(virtualSize / clusterSize);
  return Math.min(MAX_TRACKED_CLUSTERS, Math.max(mayGrow ? ROOM_CLUSTERS : 0, 2 * clusters));
}

/** Clusters that one hold of the metadata lock looks at where all of them are concerned. */
export const CLUSTERS_PER_HOLD = 16384;
/** Runs of FREE clusters that are looked at for one that is long enough, before the file grows instead. */
export const RUNS_LOOKED_AT = 1024;

/** What a step of settling does to clusters: from which state into which. */
const MOVES = { join: [FREED, SETTLING], goBack: [SETTLING, FREED], free: [SETTLING, FREE] } as const;
export type SettlingMove = keyof typeof MOVES;

export interface FreeClustersState {
  readonly clusterSize: number;
  readonly states: SharedByteMapState;
  readonly words: SharedArrayBuffer;
}

/** @param capacity of trackedClusters(); 0 for an image that is not written */
export function createFreeClustersState(clusterSize: number, capacity: number): FreeClustersState {
  return {
    clusterSize,
    states: createSharedByteMap(capacity),
    words: new SharedArrayBuffer(WORD_COUNT * 4),
  };
}

/** Clusters [start, end). */
export interface ClusterRun {
  readonly start: HostCluster;
  readonly end: HostCluster;
}

export class FreeClusters {
  private readonly states: SharedByteMap;
  private readonly words: Int32Array;

  constructor(state: FreeClustersState) {
    this.states = new SharedByteMap(state.states);
    this.words = new Int32Array(state.words);
  }

  get freeCount(): number {
    return this.words[FREE]!;
  }

  /** Clusters that are not in use, whether they can be allocated already or not. */
  get unusedCount(): number {
    return this.words[FREED]! + this.words[SETTLING]! + this.words[FREE]!;
  }

  /** Clusters that were given away and never taken back; some may hold data by now. */
  get givenCount(): number {
    return this.words[GIVEN]!;
  }

  isGiven(cluster: HostCluster): boolean {
    return this.states.get(cluster) === GIVEN;
  }

  /** Clusters just taken are linked to guest clusters that read as zeros, and hold nothing. */
  markGiven(start: HostCluster, count: number): void {
    this.states.fill(start, start + count, GIVEN);
    this.words[GIVEN] = this.words[GIVEN]! + count;
  }

  /** A given cluster turns out to hold data, or its space is promised: it is like any other from now on. */
  keepGiven(cluster: HostCluster): void {
    assert(this.isGiven(cluster), `host cluster ${cluster} was not given away`);
    this.states.fill(cluster, cluster + 1, USED);
    this.words[GIVEN] = this.words[GIVEN]! - 1;
  }

  /** Clusters that need further flushes before they are free. */
  get unsettledCount(): number {
    return this.words[FREED]! + this.words[SETTLING]!;
  }

  /** The last references to `count` clusters from `start` on are removed, or they were never linked. Throws corrupt. */
  markFreed(start: HostCluster, count: number): void {
    this.leaveUsed(start, count, FREED);
  }

  private leaveUsed(start: HostCluster, count: number, state: typeof FREED | typeof FREE): void {
    const end = Math.min(start + count, this.states.capacity);
    if (end <= start) return;
    for (let at = start as number; ; at++) {
      at = this.states.findOther(USED, at, end);
      if (at < 0) break;
      if (!this.isGiven(hostCluster(at))) throw freedTwice(at);
      this.keepGiven(hostCluster(at));
    }
    this.states.fill(start, end, state);
    if (this.unusedCount === 0) {
      this.words[LOWEST] = start;
      this.words[HIGHEST] = end;
    } else {
      this.words[LOWEST] = Math.min(this.words[LOWEST]!, start);
      this.words[HIGHEST] = Math.max(this.words[HIGHEST]!, end);
    }
    this.words[state] = this.words[state]! + (end - start);
    if (state === FREE) this.words[FREE_HINT] = Math.min(this.words[FREE_HINT]!, start);
  }

  /** Clusters that are free already: formats with reference counts settle a release themselves. */
  markFree(start: HostCluster, count: number): void {
    this.leaveUsed(start, count, FREE);
  }

  /**
   * Takes up to `count` FREE clusters that follow each other, or exactly that many. @param mostRuns that are looked at
   * @returns null when there are none
   */
  take(count: number, exactly: boolean, mostRuns = Number.POSITIVE_INFINITY): ClusterRun | null {
    if (this.freeCount === 0 || (exactly && this.freeCount < count)) return null;
    let looked = 0;
    for (let start = this.next(FREE, this.words[FREE_HINT]!); start >= 0 && looked < mostRuns; looked++) {
      if (looked === 0) this.words[FREE_HINT] = start;
      const end = this.endOfRun(start, start + count, FREE);
      if (!exactly || end - start === count) {
        this.replace(start, end, FREE, USED);
        return { start: hostCluster(start), end: hostCluster(end) };
      }
      start = this.next(FREE, end);
    }
    return null;
  }

  /** What the next fdatasync achieves. */
  get phase(): SettlingPhase {
    return PHASES[this.words[PHASE]!]!;
  }

  set phase(phase: SettlingPhase) {
    this.words[PHASE] = PHASES.indexOf(phase);
  }

  /** Makes a step with CLUSTERS_PER_HOLD clusters from `start` on. @returns where the next step begins; null: that was the last */
  move(step: SettlingMove, start: number): number | null {
    const [from, to] = MOVES[step];
    const { runs, next } = this.near(from, start);
    for (const run of runs) this.replace(run.start, run.end, from, to);
    return next;
  }

  /** Runs of SETTLING clusters among CLUSTERS_PER_HOLD from `start` on. @returns `next`: where others begin; null: there are none */
  settlingRuns(start: number): { readonly runs: readonly ClusterRun[]; readonly next: number | null } {
    return this.near(SETTLING, start);
  }

  /** Visits the runs that can be taken. */
  forEachFreeRun(visit: (start: HostCluster, count: number) => void): void {
    if (this.freeCount === 0) return;
    const highest = this.words[HIGHEST]!;
    for (let start = this.next(FREE, this.words[LOWEST]!); start >= 0; ) {
      const end = this.endOfRun(start, highest, FREE);
      visit(hostCluster(start), end - start);
      start = this.next(FREE, end);
    }
  }

  /** Forgets FREE clusters at the end of a file of `clusters` clusters, CLUSTERS_PER_HOLD at most. @returns what is left */
  cutTail(clusters: number): HostCluster {
    const least = Math.max(0, clusters - CLUSTERS_PER_HOLD);
    let end = clusters;
    while (end > least && this.states.get(end - 1) === FREE) end--;
    if (end < clusters) this.replace(end, clusters, FREE, USED);
    return hostCluster(end);
  }

  private near(state: number, start: number): { readonly runs: ClusterRun[]; readonly next: number | null } {
    const runs: ClusterRun[] = [];
    const highest = this.words[HIGHEST]!;
    if (this.words[state] === 0) return { runs, next: null };
    const from = Math.max(start, this.words[LOWEST]!);
    const limit = Math.min(from + CLUSTERS_PER_HOLD, highest);
    for (let at = from; at < limit; ) {
      const first = this.states.find(state, at, limit);
      if (first < 0) break;
      at = this.endOfRun(first, limit, state);
      runs.push({ start: hostCluster(first), end: hostCluster(at) });
    }
    return { runs, next: limit < highest ? limit : null };
  }

  private next(state: number, from: number): number {
    return this.states.find(state, from, this.words[HIGHEST]!);
  }

  /** End of the run in this state that begins at `start`, `limit` at most. */
  private endOfRun(start: number, limit: number, state: number): number {
    const end = this.states.findOther(state, start, limit);
    return end < 0 ? limit : end;
  }

  private replace(start: number, end: number, from: number, to: number): void {
    this.states.fill(start, end, to);
    this.words[from] = this.words[from]! - (end - start);
    if (to === FREE) this.words[FREE_HINT] = Math.min(this.words[FREE_HINT]!, start);
    if (to !== USED) this.words[to] = this.words[to]! + (end - start);
  }
}

/** The walk of an open finds such entries; they are met here if the image was taken for one that needs no walk. */
function freedTwice(cluster: number): ImgfuseError {
  return new ImgfuseError('corrupt', `two entries refer to host cluster ${cluster}; run imgfuse check`);
}
