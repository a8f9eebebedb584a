// The order of the durability steps of an open QED image:
//
//   allocating write   dirty bit (durable) -> guest bytes into clusters that read as zeros -> L2 entries -> (new L2) L1 entry
//   the same over backing data (R6)   ... guest bytes -> [held back: fdatasync] -> L2 entries
//   discard            dirty bit (durable) -> L2 entries -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//
// The steps of a write stand in mapped/allocating-write.ts and new-clusters.ts, those of a discard in deallocate.ts, and here those
// of the whole image.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { ImgfuseError, isHostFull } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import {
  type ClosedFacts,
  type ImageDetails,
  onlyFile,
  type ReadableImage,
  type WritableImage,
} from '../image-format.ts';
import { type ImageSteps, MappedImage } from '../mapped/mapped-image.ts';
import { type Collaborators, connect } from './collaborators.ts';
import { type CompactParts, giveAwayRest, giveFreeClustersAway, moveIntoGaps, removeEmptyTables } from './compact.ts';
import { describeHeader, type QedHeader } from './header.ts';
import { resize } from './resize.ts';
import type { QedState } from './state.ts';

/** The dirty bit is cleared after this long without an allocation. */
const IDLE_MS = 5000;

/** This thread's objects over the state of an image. @param slot its reservation slot @param log called once per sentence */
export function qedImage(
  file: HostFile,
  state: QedState,
  slot: number,
  backing: ReadableImage | null,
  log: (sentence: string) => void,
): WritableImage {
  const parts = connect(file, backing, state, slot, log);
  const { clusterSize } = state.header;
  const steps = new QedSteps(state.header, parts, log);
  return new MappedImage(file, { format: 'qed', files: onlyFile(file), clusterSize, ...parts }, steps, state);
}

class QedSteps implements ImageSteps {
  private readonly header: QedHeader;
  private readonly parts: Collaborators;
  private readonly log: (sentence: string) => void;

  constructor(header: QedHeader, parts: Collaborators, log: (sentence: string) => void) {
    this.header = header;
    this.parts = parts;
    this.log = log;
  }

  /** Where the host lets the file grow no further, clusters that an idle image has given away are taken back. */
  makeRoom(error: unknown): boolean {
    const { deallocator, flush, free, lock, tracker } = this.parts;
    if (!isHostFull(error) || lock.run(() => free.givenCount) === 0) return false;
    deallocator.takeBackGiven();
    tracker.noteWrite();
    flush.runUntilSettled();
    return true;
  }

  preallocateFirst(offset: GuestOffset, length: number): number {
    return this.parts.allocating.preallocateFirst(offset, length);
  }

  resize(size: number): void {
    resize(this.parts, size);
  }

  flush(): void {
    this.parts.flush.run();
  }

  maintain(nowMs: number): void {
    const { dirtyBit, flush, lock, pending } = this.parts;
    const { overdue, idle } = lock.run(() => ({
      overdue: pending.isOverdue(nowMs),
      idle: dirtyBit.isSet && dirtyBit.idleMs(nowMs) >= IDLE_MS,
    }));
    if (idle) this.makeClean();
    else if (overdue) flush.linkEarly();
  }

  makeClean(): void {
    const { allocator, dirtyBit, flush, free, lock, pending, reservations } = this.parts;
    flush.run();
    if (!dirtyBit.isSet) return;
    if (lock.run(() => free.unusedCount) > 0) {
      flush.runUntilSettled();
      giveFreeClustersAway(this.parts);
      flush.run();
    }
    dirtyBit.clear(() => {
      if (reservations.othersExclusive() || !pending.isEmpty || free.unusedCount > 0) return false;
      allocator.trim();
      return true;
    });
  }

  close(): void {
    const { dirtyBit, file, flush, free, lock } = this.parts;
    this.makeClean();
    if (lock.run(() => free.unusedCount) > 0) this.compact();
    flush.run();
    if (!dirtyBit.isSet) return;
    const { path } = file;
    throw new ImgfuseError('io', `${path} stays marked as not clean; imgfuse check repairs it`, { path });
  }

  /** The rest of a clean close: no cluster stays without an owner, which to other programs would be a leak. */
  private compact(): void {
    const { allocator, dirtyBit, file, flush } = this.parts;
    this.withAllReserved(removeEmptyTables);
    flush.runUntilSettled();
    giveFreeClustersAway(this.parts);
    this.withAllReserved(moveIntoGaps);
    flush.runUntilSettled();
    const leaked = this.withAllReserved(giveAwayRest);
    if (leaked > 0) this.log(`${file.path}: ${leaked} free clusters found no owner and stay as leaks`);
    dirtyBit.clear(() => {
      allocator.trim();
      return true;
    });
  }

  /** Runs `action` under the lock with the dirty bit set, when no request is in flight. */
  private withAllReserved<T>(action: (parts: CompactParts) => T): T {
    const { dirtyBit, reservations, tracker } = this.parts;
    return reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
      try {
        dirtyBit.set();
        return action(this.parts);
      } finally {
        tracker.noteWrite();
      }
    });
  }

  closedFacts(): ClosedFacts | null {
    const { dirtyBit, disk } = this.parts;
    return dirtyBit.isSet ? null : { allocatedClusters: disk.allocatedClustersOutsideLock() };
  }

  /** Clusters lose their links, whatever the host can. */
  canDiscard(): boolean {
    return true;
  }

  details(virtualSize: number): ImageDetails {
    return describeHeader(this.header, virtualSize, this.parts.dirtyBit.isSet);
  }
}
