// Ranges that shall read as zeros, and grains given up: discard, write zeroes, and what lies behind the end of a smaller disk. A whole
// grain loses its link and is freed, if its entry can say "zeros": 0 without a parent, 1 where the header allows that. Else, and off
// the grid of new grains, its data is punched where it lies; over a parent it gets a grain of zeros first. Large ranges go slice by
// slice, so that other requests are served in between.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  type HostOffset,
  hostOffset,
} from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { Reservations } from '../../../concurrency/reservations.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ReadableImage } from '../../image-format.ts';
import type { AllocatingWrite } from '../../mapped/allocating-write.ts';
import { readsAsZeros } from '../../mapped/backing.ts';
import type { DiskNumbers } from '../../mapped/disk-numbers.ts';
import type { PendingLinks } from '../../mapped/pending-links.ts';
import type { ReservedRuns, RunWriter } from '../../mapped/runs/reserved-runs.ts';
import { eachAdjoining } from '../../mapped/space/adjoining.ts';
import { ZeroInPlace } from '../../mapped/zero-in-place.ts';
import { changeEachSlice, changeFirstSlice, zeroRange } from '../../mapped/zero-range.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import type { GrainTables } from './grain-tables.ts';
import type { Linker } from './link.ts';
import type { Mapper, Run } from './mapping.ts';
import { UNALLOCATED, ZEROS } from './table.ts';
import type { Unclean } from './unclean.ts';

export interface DeallocatorParts {
  readonly file: HostFile;
  readonly hasZeroGrains: boolean;
  readonly backing: ReadableImage | null;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly grainTables: GrainTables;
  readonly allocator: Allocator;
  readonly allocating: AllocatingWrite;
  readonly unclean: Unclean;
  readonly disk: Pick<DiskNumbers, 'removeAllocated' | 'virtualSize'>;
  readonly runs: ReservedRuns<Run>;
  readonly writer: RunWriter<Run>;
}

export class Deallocator {
  private readonly parts: DeallocatorParts;
  private readonly inPlace: ZeroInPlace<Run>;
  /** the entry of a grain that reads as zeros; null: over this parent none does */
  private readonly zeros: number | null;

  constructor(parts: DeallocatorParts) {
    this.parts = parts;
    this.inPlace = new ZeroInPlace({ clusterSize: parts.geometry.grainBytes, ...parts });
    const overParent = parts.hasZeroGrains ? ZEROS : null;
    this.zeros = parts.backing === null ? UNALLOCATED : overParent;
  }

  /** [offset, offset + length) reads as zeros afterwards. @param diskEnd size of the disk: its last grain counts as whole */
  zero(offset: GuestOffset, length: number, diskEnd: number): void {
    zeroRange(offset, length, this.parts.geometry.grainBytes, diskEnd, {
      part: (start, end) => this.inPlace.zero(start, end),
      clusters: (first, count) => this.zeroGrains(first, count),
    });
  }

  /** Grains [first, end), as far as they are behind the end of the disk, become unallocated; the disk may grow meanwhile. */
  cutOff(first: GuestCluster, end: number): void {
    const { disk, geometry } = this.parts;
    changeEachSlice(this.parts, first, end, (start, count) => {
      const behind = guestCluster(Math.max(start, geometry.grainsFor(disk.virtualSize)));
      if (behind < start + count) this.unlink(behind, start + count - behind, UNALLOCATED, true);
    });
  }

  /** Grains [first, end) read from the parent again. */
  uncover(first: GuestCluster, end: GuestCluster): void {
    changeEachSlice(this.parts, first, end, (start, count) => this.unlink(start, count, UNALLOCATED, true));
  }

  /** The rest of the grain that a disk of `size` bytes ends in: in place, if it has data. */
  zeroBehindEnd(size: number): void {
    this.inPlace.zeroBehindEnd(size);
  }

  /**
   * Whole grains that are reserved exclusively read as zeros from now on, if an entry can say so; the lock is held, and may be
   * released meanwhile. @returns grains done
   */
  zeroReserved(first: GuestCluster, count: number): number {
    if (!this.parts.hasZeroGrains) return 0;
    this.parts.unclean.set();
    this.parts.grainTables.ensure(first);
    const part = Math.min(count, this.parts.linker.span(first));
    this.unlink(first, part, ZEROS, true);
    return part;
  }

  /** Whole grains of one slice, the first of `count`. @returns grains done */
  private zeroGrains(first: GuestCluster, count: number): number {
    const { backing, geometry, grainTables, lock, mapper, pending } = this.parts;
    const { grainBytes, tableEntries } = geometry;
    const toNextTable = Math.min(count, tableEntries - geometry.tableIndexOf(first));
    // the parent may have to wait for its own tables, and it never changes: it is asked without the lock
    const isBare = lock.run(() => mapper.table(geometry.directoryIndexOf(first)) === 0 && pending.isEmpty);
    if (isBare && readsAsZeros(backing, geometry.startOf(first), toNextTable * grainBytes)) return toNextTable;
    const { zeros } = this;
    if (zeros === null) return changeFirstSlice(this.parts, first, count, (part) => this.zeroOverParent(first, part));
    return changeFirstSlice(this.parts, first, count, (part) => {
      if (zeros !== UNALLOCATED) {
        this.parts.unclean.set();
        grainTables.ensure(first);
      }
      this.unlink(first, part, zeros, false);
    });
  }

  /** Grains that are reserved exclusively, whatever the parent has there; the lock is held, and may be released meanwhile. */
  private zeroOverParent(first: GuestCluster, count: number): void {
    const { allocating, backing, geometry, lock, mapper } = this.parts;
    const { grainBytes } = geometry;
    for (let done = 0; done < count; ) {
      const grain = after(first, done);
      const start = geometry.startOf(grain);
      const run = mapper.map(start, (count - done) * grainBytes);
      let grains = run.length / grainBytes;
      if (run.status === 'data') {
        this.punch(run.hostOffset, run.length);
      } else {
        lock.unlock();
        const isZero = readsAsZeros(backing, start, run.length);
        lock.lock();
        if (!isZero) grains = allocating.linkZeros(grain, grains, false);
      }
      done += grains;
    }
  }

  /** Zeros where grains lie; the lock is held, and released meanwhile. */
  private punch(host: HostOffset, bytes: number): void {
    const { file, lock, unclean } = this.parts;
    unclean.set();
    lock.unlock();
    try {
      failpoint('discard');
      file.punchHole(host, bytes);
    } finally {
      lock.lock();
    }
  }

  /**
   * Grains of one slice get the entry `entry`, and are freed. @param always false: a grain off the grid keeps its place, which could
   * not be used again, and is punched there
   */
  private unlink(first: GuestCluster, count: number, entry: number, always: boolean): void {
    const { geometry, mapper } = this.parts;
    const table = mapper.table(geometry.directoryIndexOf(first));
    const keptGrains: HostOffset[] = [];
    for (let i = 0; i < count; ) {
      const places: number[] = [];
      for (; i + places.length < count; ) {
        const place = mapper.lookup(after(first, i + places.length), table);
        if (place > ZEROS && !always && !geometry.isOnGrid(hostOffset(place))) {
          keptGrains.push(hostOffset(place));
          break;
        }
        places.push(place);
      }
      this.replace(after(first, i), places, entry);
      // behind them is a grain that keeps its place
      i += places.length + 1;
    }
    // the grains stay reserved, so they stay where they are
    for (const host of keptGrains) this.punch(host, geometry.grainBytes);
  }

  /** Writes nothing where nothing changes. The lock is held, and may be released meanwhile. */
  private replace(first: GuestCluster, places: readonly number[], entry: number): void {
    const { allocator, disk, geometry, linker, pending, unclean } = this.parts;
    if (places.every((place) => place === entry)) return;
    failpoint('discard');
    unclean.set();
    linker.replace(first, places.length, entry);
    const freed = places.filter((place) => place > ZEROS);
    for (let i = 0; i < places.length; i++) pending.drop(after(first, i));
    eachAdjoining(freed, geometry.grainBytes, (place, adjoining) => allocator.release(hostOffset(place), adjoining));
    disk.removeAllocated(freed.length);
  }
}
