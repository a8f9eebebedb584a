// Which host clusters hold metadata, and of which kind: one byte a cluster in shared memory, filled by the walk of the open
// and kept current under the metadata lock. It answers before every write of guest data whether the write would hit
// metadata, in the time of a look at a byte.

import { withRoom } from '../../bytes/number-index.ts';
import { after, type HostCluster, hostCluster } from '../../bytes/offsets.ts';

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

/** @param capacity of trackedClusters(); 0 for an image that is not written */
export function createMetadataClustersState(clusters: number, capacity: number): SharedArrayBuffer {
  return new SharedArrayBuffer(Math.min(clusters, capacity), { maxByteLength: capacity });
}

export class MetadataClusters {
  private readonly buffer: SharedArrayBuffer;
  private readonly kinds: Uint8Array;

  constructor(state: SharedArrayBuffer) {
    this.buffer = state;
    this.kinds = new Uint8Array(state);
  }

  /** Clusters from `first` on hold metadata; one that holds some already keeps its kind. */
  mark(kind: MetadataKind, first: HostCluster, count: number): void {
    const end = Math.min(first + count, this.buffer.maxByteLength);
    if (this.buffer.byteLength < end) this.buffer.grow(end);
    const value = KINDS.indexOf(kind);
    for (let cluster = first; cluster < end; cluster++) if (this.kinds[cluster] === 0) this.kinds[cluster] = value;
  }

  /** Nothing refers to these clusters any more. */
  clear(first: HostCluster, count: number): void {
    this.kinds.fill(0, first, first + count);
  }

  /** Clusters so far out that their number has no byte are not known. */
  tracks(cluster: HostCluster): boolean {
    return cluster < this.buffer.maxByteLength;
  }

  kindOf(cluster: HostCluster): MetadataKind | null {
    const kind = KINDS[this.kinds[cluster] ?? 0]!;
    return kind === 'none' ? null : kind;
  }

  /** The first of these clusters that holds metadata, or null. */
  find(first: HostCluster, count: number): HostCluster | null {
    for (let i = 0; i < count; i++) {
      if ((this.kinds[first + i] ?? 0) !== 0) return after(first, i);
    }
    return null;
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
