// Ranges that shall read as zeros, and clusters given up: discard, write zeroes, and what lies behind the end of a smaller disk. Whole
// clusters lose their link and are freed; parts of clusters are zeroed in place. Large ranges go slice by slice, so that other requests
// are served in between.

import { after, type GuestCluster, type GuestOffset } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { Reservations } from '../../../concurrency/reservations.ts';
import type { DiskNumbers } from '../../mapped/disk-numbers.ts';
import type { ReservedRuns, RunWriter } from '../../mapped/runs/reserved-runs.ts';
import { eachAdjoining } from '../../mapped/space/adjoining.ts';
import type { Allocator } from '../../mapped/space/cluster-allocator.ts';
import { ZeroInPlace } from '../../mapped/zero-in-place.ts';
import { changeEachSlice, changeFirstSlice, zeroRange } from '../../mapped/zero-range.ts';
import type { Geometry } from './geometry.ts';
import type { InUse } from './in-use.ts';
import type { Linker } from './link.ts';
import { type Mapper, NO_CLUSTER, type Run } from './mapping.ts';

export interface DeallocatorParts {
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly inUse: InUse;
  readonly disk: Pick<DiskNumbers, 'removeAllocated'>;
  readonly runs: ReservedRuns<Run>;
  readonly writer: RunWriter<Run>;
}

export class Deallocator {
  private readonly parts: DeallocatorParts;
  private readonly inPlace: ZeroInPlace<Run>;

  constructor(parts: DeallocatorParts) {
    this.parts = parts;
    this.inPlace = new ZeroInPlace({ backing: null, ...parts, clusterSize: parts.geometry.clusterSize });
  }

  /** [offset, offset + length) reads as zeros afterwards. @param diskEnd virtual size: its last cluster counts as whole */
  zero(offset: GuestOffset, length: number, diskEnd: number): void {
    zeroRange(offset, length, this.parts.geometry.clusterSize, diskEnd, {
      part: (start, end) => this.inPlace.zero(start, end),
      clusters: (first, count) => changeFirstSlice(this.parts, first, count, (part) => this.unlink(first, part)),
    });
  }

  /** Guest clusters [first, end), which lie behind the end of the disk, lose what they have. */
  cutOff(first: GuestCluster, end: number): void {
    changeEachSlice(this.parts, first, end, (cluster, count) => this.unlink(cluster, count));
  }

  /** The rest of the cluster that a disk of `size` bytes ends in: in place, if it has data. */
  zeroBehindEnd(size: number): void {
    this.inPlace.zeroBehindEnd(size);
  }

  /** Clusters within one slice lose their links. They are reserved, and stay what they are while the lock is released. */
  private unlink(first: GuestCluster, count: number): void {
    const { allocator, disk, geometry, inUse, linker, mapper } = this.parts;
    if (mapper.isEmpty(first, count)) return;
    const hosts = Array.from({ length: count }, (_, i) => mapper.lookup(after(first, i)));
    const given = hosts.filter((host) => host !== NO_CLUSTER);
    failpoint('discard');
    inUse.change();
    linker.unlink(first, count);
    eachAdjoining(given, geometry.clusterSize, (host, adjoining) => allocator.release(host, adjoining));
    disk.removeAllocated(given.length);
  }
}
