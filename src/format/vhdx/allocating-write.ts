// Writes into blocks that have no data. A new block reads as zeros, so only the guest's bytes are transferred, without the lock, and
// its link follows. A block that another program has unmapped may have kept a place, of which nobody knows what it holds: it gets a
// new one, and the old one is freed.

import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { GuestAccess } from '../guest-access.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import { type FullHostParts, reclaimingWhenFull } from '../mapped/full-host.ts';
import type { UnallocatedRun, ZeroRun } from '../mapped/run-mapper.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import { PAYLOAD_BLOCK_FULLY_PRESENT } from './bat.ts';
import type { Geometry } from './geometry.ts';
import { MIB } from './header/fields.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import type { Session } from './session.ts';

export interface AllocatingWriteParts {
  readonly file: HostFile;
  readonly access: GuestAccess;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly session: Session;
  readonly disk: Pick<DiskNumbers, 'addAllocated'>;
  readonly flush: FullHostParts['flush'];
  readonly reusable: FullHostParts['reusable'];
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
  }

  /** Writes into the first block of a run without data; it is reserved exclusively, the lock is held. @returns bytes written */
  writeNewClusters(
    source: Uint8Array,
    sourceOffset: number,
    run: ZeroRun | UnallocatedRun,
    offset: GuestOffset,
  ): number {
    const { file, geometry } = this.parts;
    const block = geometry.blockOf(offset);
    const inBlock = offset - geometry.startOf(block);
    const part = Math.min(run.length, geometry.blockBytes - inBlock);
    this.link(block, (host) => {
      failpoint('data-write');
      file.write(source, sourceOffset, part, after(host, inBlock));
    });
    return part;
  }

  /**
   * Gives the first block of a range a place that reads as zeros, if it has none. @param takesSpace the host reserves its space
   * @returns bytes done
   */
  preallocateFirst(offset: GuestOffset, length: number, takesSpace: boolean): number {
    const { access, geometry, mapper, reservations } = this.parts;
    const block = geometry.blockOf(offset);
    return reservations.exclusively(block, after(block, 1), () => {
      const part = Math.min(length, geometry.startOf(block) + geometry.blockBytes - offset);
      // the disk may have become smaller while this waited
      access.assertInside(offset, part);
      if (mapper.map(offset, part).status !== 'data') this.linkZeros(block, takesSpace);
      return part;
    });
  }

  /** A block that is reserved exclusively; the lock is held. */
  private linkZeros(block: GuestCluster, takesSpace: boolean): void {
    const { file, geometry } = this.parts;
    this.link(block, (host) => {
      if (!takesSpace) return;
      failpoint('preallocate');
      file.allocateRange(host, geometry.blockBytes);
    });
  }

  private link(block: GuestCluster, fill: (host: HostOffset) => void): void {
    reclaimingWhenFull(this.parts, 1, () => this.attempt(block, fill));
  }

  /** When it throws the lock is held and nothing is linked. @param fill called without the lock */
  private attempt(block: GuestCluster, fill: (host: HostOffset) => void): void {
    const { allocator, disk, geometry, linker, lock, mapper, session } = this.parts;
    const blockUnits = geometry.blockBytes / MIB;
    // in the same hold as the allocation: while the headers name the log nobody cuts the file
    session.startLog();
    const host = allocator.allocateTable();
    const kept = mapper.keptPlace(block);
    try {
      lock.unlock();
      fill(host);
      lock.lock();
      linker.set(block, PAYLOAD_BLOCK_FULLY_PRESENT, host);
    } catch (error) {
      if (!lock.held) lock.lock();
      allocator.release(host, blockUnits);
      throw error;
    }
    disk.addAllocated(1);
    if (kept !== null) allocator.release(kept, blockUnits);
  }
}
