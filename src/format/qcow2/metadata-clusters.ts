// Which host clusters hold metadata, and of which kind: a map in shared memory, filled by the open and kept current under the
// metadata lock. It answers before every write of guest data whether the write would hit metadata.

import { withRoom } from '../../bytes/number-index.ts';
import { type HostCluster, hostCluster } from '../../bytes/offsets.ts';
import { createSharedByteMap, SharedByteMap, type SharedByteMapState } from '../../concurrency/shared-byte-map.ts';

/** The value of a byte is the index. */
const KINDS = [
  'none',
  'header',
  'active L1 table',
  'active L2 table',
  'refcount table',
  'refcount block',
  'snapshot table',
  'inactive L1 table',
  'inactive L2 table',
  'bitmap',
  'encryption header',
] as const;
export type MetadataKind = Exclude<(typeof KINDS)[number], 'none'>;
const NONE = 0;

/** @param capacity of trackedClusters(); 0 for an image that is not written */
export function createMetadataClustersState(capacity: number): SharedByteMapState {
  return createSharedByteMap(capacity);
}

export class MetadataClusters {
  private readonly kinds: SharedByteMap;

  constructor(state: SharedByteMapState) {
    this.kinds = new SharedByteMap(state);
  }

  /** Clusters from `first` on hold metadata; one that holds some already keeps its kind. */
  mark(kind: MetadataKind, first: HostCluster, count: number): void {
    const end = Math.min(first + count, this.kinds.capacity);
    const value = KINDS.indexOf(kind);
    if (end - first === 1) {
      if (this.kinds.get(first) === NONE) this.kinds.set(first, value);
      return;
    }
    for (let at = first as number; at < end; ) {
      const start = this.kinds.find(NONE, at, end);
      if (start < 0) return;
      at = this.kinds.findOther(NONE, start, end);
      if (at < 0) at = end;
      this.kinds.fill(start, at, value);
    }
  }

  /** Nothing refers to these clusters any more. */
  clear(first: HostCluster, count: number): void {
    const end = Math.min(first + count, this.kinds.capacity);
    if (first < end) this.kinds.fill(first, end, NONE);
  }

  /** Clusters so far out that their number has no byte are not known. */
  tracks(cluster: HostCluster): boolean {
    return cluster < this.kinds.capacity;
  }

  kindOf(cluster: HostCluster): MetadataKind | null {
    const kind = KINDS[this.tracks(cluster) ? this.kinds.get(cluster) : NONE]!;
    return kind === 'none' ? null : kind;
  }

  /** The first of these clusters that holds metadata, or null. */
  find(first: HostCluster, count: number): HostCluster | null {
    const found = this.kinds.findOther(NONE, first, Math.min(first + count, this.kinds.capacity));
    return found < 0 ? null : hostCluster(found);
  }
}

/** What is to be marked, kept until it is sure that the map is wanted. */
export class MetadataRuns {
  /** of each run: value of the kind, first cluster, end (exclusive) */
  private runs = new Float64Array(0);
  private length = 0;

  add(kind: MetadataKind, first: number, count: number): void {
    const value = KINDS.indexOf(kind);
    const { length } = this;
    if (length > 0 && this.runs[length - 3] === value && this.runs[length - 1] === first) {
      this.runs[length - 1] = first + count;
      return;
    }
    this.runs = withRoom(this.runs, length + 2);
    this.runs[length] = value;
    this.runs[length + 1] = first;
    this.runs[length + 2] = first + count;
    this.length += 3;
  }

  /** In the order in which they were added. */
  markAll(clusters: MetadataClusters): void {
    for (let at = 0; at < this.length; at += 3) {
      const first = hostCluster(this.runs[at + 1]!);
      clusters.mark(KINDS[this.runs[at]!] as MetadataKind, first, this.runs[at + 2]! - first);
    }
  }
}
