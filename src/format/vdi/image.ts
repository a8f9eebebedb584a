// The order of the durability steps of an open VDI image; it has no dirty bit:
//
//   first change       new uuidModify (durable) -> the change
//   allocating write   blocks reserved: zeros and count (durable) -> guest bytes -> entries of the map
//   the same over a parent's data (R6)   ... guest bytes -> [held back: fdatasync] -> entries
//   discard            entries -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//   close              flush -> last blocks into gaps -> count (durable) -> length (durable)
//
// The steps of a write stand in mapped/allocating-write.ts and new-clusters.ts, those of a discard in deallocate.ts, and here those
// of the whole image.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { isHostFull } from '../../errors/index.ts';
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
import { moveIntoGaps } from './compact.ts';
import { describeHeader, UUID_PARENT_MODIFY_AT, writeHeaderFields } from './header.ts';
import { identityOf, parentModifyBytes } from './parent.ts';
import { resize } from './resize.ts';
import type { VdiState } from './state.ts';

/** What was reserved and not used is given back after this long without an allocation. */
const IDLE_MS = 5000;

/** This thread's objects over the state of an image. @param slot its reservation slot @param log called once per sentence */
export function vdiImage(
  file: HostFile,
  state: VdiState,
  slot: number,
  parent: ReadableImage | null,
  log: (sentence: string) => void,
): WritableImage {
  const parts = connect(file, parent, state, slot, log);
  const { header } = state;
  const named = { format: 'vdi', files: onlyFile(file), clusterSize: header.blockSize, identity: identityOf(header) };
  const adoptParent = (identity: string) => storeParent(parts, identity);
  return new MappedImage(file, { adoptParent, ...named, ...parts }, new VdiSteps(state, parts, log), state);
}

/** What the guest sees stays the same, so uuidModify does as well. */
function storeParent({ file, lock, tracker }: Collaborators, identity: string): void {
  const change = { at: UUID_PARENT_MODIFY_AT, bytes: parentModifyBytes(identity) };
  lock.run(() => tracker.writeMetadata('header-update', () => writeHeaderFields(file, [change])));
  tracker.sync();
}

class VdiSteps implements ImageSteps {
  private readonly state: VdiState;
  private readonly parts: Collaborators;
  private readonly log: (sentence: string) => void;

  constructor(state: VdiState, parts: Collaborators, log: (sentence: string) => void) {
    this.state = state;
    this.parts = parts;
    this.log = log;
  }

  makeRoom(): boolean {
    return false;
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
    const { allocatedCount, flush, lock, numbers, pending } = this.parts;
    const { overdue, idle } = lock.run(() => ({
      overdue: pending.isOverdue(nowMs),
      idle: allocatedCount.hasSpare && nowMs - numbers.lastChangeMs >= IDLE_MS,
    }));
    if (idle) this.makeClean();
    else if (overdue) flush.linkEarly();
  }

  makeClean(): void {
    const { allocatedCount, flush, free, lock } = this.parts;
    flush.run();
    if (lock.run(() => free.unusedCount) > 0) flush.runUntilSettled();
    allocatedCount.trim();
  }

  close(): void {
    this.makeClean();
    const { allocatedCount, flush, free, lock } = this.parts;
    if (lock.run(() => free.freeCount) === 0) return;
    try {
      this.fillGaps();
    } catch (error) {
      if (!isHostFull(error)) throw error;
      const { path } = this.parts.file;
      this.log(
        `${path}: there is no space to move its last blocks into the gaps; other programs count those as errors`,
      );
    }
    flush.runUntilSettled();
    allocatedCount.trim();
  }

  private fillGaps(): void {
    const { reservations, tracker } = this.parts;
    reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
      try {
        moveIntoGaps(this.parts);
      } finally {
        tracker.noteWrite();
      }
    });
  }

  closedFacts(): ClosedFacts | null {
    const { allocatedCount, free, lock, numbers } = this.parts;
    return lock.run(() =>
      free.unusedCount > 0 || allocatedCount.hasSpare ? null : { allocatedClusters: numbers.end },
    );
  }

  /** Blocks lose their links; those of a static image are punched where they are, if the host can do that. */
  canDiscard(): boolean {
    return !this.parts.isStatic || this.parts.file.punchesHoles();
  }

  details(virtualSize: number): ImageDetails {
    const { header, nextModify } = this.state;
    return describeHeader(header, virtualSize, this.parts.modifyUuid.isChanged ? nextModify : header.uuidModify);
  }
}
