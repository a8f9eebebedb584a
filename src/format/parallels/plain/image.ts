// The order of the durability steps of an open image of one file:
//
//   any change         "in use" in the header (durable) -> the change
//   allocating write   guest bytes into clusters that read as zeros -> entries of the BAT
//   discard            entries -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//   close              flush -> last clusters into gaps -> flush -> the file is cut -> fdatasync -> "closed" -> fdatasync
//
// The steps of a write stand in mapped/allocating-write.ts and new-clusters.ts, those of a discard in deallocate.ts, and here those
// of the whole image.

import type { GuestOffset } from '../../../bytes/offsets.ts';
import { ImgfuseError, isHostFull } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type ClosedFacts, type ImageDetails, onlyFile, type WritableImage } from '../../image-format.ts';
import { type ImageSteps, MappedImage } from '../../mapped/mapped-image.ts';
import { describeHeader } from '../header.ts';
import { type Collaborators, connect } from './collaborators.ts';
import { moveIntoGaps } from './compact.ts';
import { resize } from './resize.ts';
import type { PlainState } from './state.ts';

/** The image counts as closed after this long without a change. */
const IDLE_MS = 5000;

/** This thread's objects over the state of an image. @param slot its reservation slot @param log called once per sentence */
export function plainImage(
  file: HostFile,
  state: PlainState,
  slot: number,
  log: (sentence: string) => void,
): WritableImage {
  const parts = connect(file, state, slot, log);
  return new MappedImage(
    file,
    { format: 'parallels', files: onlyFile(file), clusterSize: state.header.clusterBytes, ...parts },
    new PlainSteps(state, parts, log),
    state,
  );
}

class PlainSteps implements ImageSteps {
  private readonly state: PlainState;
  private readonly parts: Collaborators;
  private readonly log: (sentence: string) => void;

  constructor(state: PlainState, parts: Collaborators, log: (sentence: string) => void) {
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
    resize(this.parts, this.state.header, size);
  }

  flush(): void {
    this.parts.flush.run();
  }

  maintain(nowMs: number): void {
    const { inUse, lock } = this.parts;
    if (lock.run(() => inUse.isSet && inUse.idleMs(nowMs) >= IDLE_MS)) this.makeClean();
  }

  /** Gaps between clusters may stay: only a close moves data. */
  makeClean(): void {
    const { allocator, flush, free, inUse, lock, reservations } = this.parts;
    flush.run();
    if (!inUse.isSet) return;
    if (lock.run(() => free.unusedCount) > 0) flush.runUntilSettled();
    allocator.trimInPieces(lock);
    inUse.clear(() => {
      if (reservations.othersExclusive() || free.unsettledCount > 0) return false;
      allocator.trim();
      return true;
    });
  }

  close(): void {
    const { allocator, file, flush, free, inUse, lock } = this.parts;
    flush.run();
    // an idle image is closed already, but for its gaps
    if (!inUse.isSet && lock.run(() => free.unusedCount) === 0) return;
    flush.runUntilSettled();
    allocator.trimInPieces(lock);
    if (lock.run(() => free.freeCount) > 0) {
      this.fillGaps();
      flush.runUntilSettled();
      allocator.trimInPieces(lock);
    }
    flush.run();
    inUse.clear(() => {
      allocator.trim();
      return true;
    });
    if (!inUse.isSet) return;
    const { path } = file;
    throw new ImgfuseError('io', `${path} stays marked as in use; imgfuse check repairs it`, { path });
  }

  private fillGaps(): void {
    const { inUse, reservations, tracker } = this.parts;
    reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
      try {
        inUse.change();
        moveIntoGaps(this.parts);
      } catch (error) {
        if (!isHostFull(error)) throw error;
        const { path } = this.parts.file;
        this.log(`${path}: there is no space to move its last clusters into the gaps, which stay as leaks`);
      } finally {
        tracker.noteWrite();
      }
    });
  }

  closedFacts(): ClosedFacts | null {
    const { disk, free, inUse, lock } = this.parts;
    if (inUse.isSet || lock.run(() => free.unusedCount) > 0) return null;
    return { allocatedClusters: disk.allocatedClustersOutsideLock() };
  }

  /** Clusters lose their links, whatever the host can. */
  canDiscard(): boolean {
    return true;
  }

  details(virtualSize: number): ImageDetails {
    return { ...describeHeader(this.state.header, virtualSize), dirty: this.parts.inUse.isSet };
  }
}
