// The order of the durability steps of an open sparse extent:
//
//   first change       unclean mark (durable) -> the change
//   allocating write   the file grows by zeros (durable) -> guest bytes -> entry in the first table -> in the second
//   over a parent (R6) ... guest bytes and the parent's around them -> [held back: fdatasync] -> entries
//   a table is missing ... -> a table of zeros (durable) -> first directory -> second directory -> entries
//   discard            entries -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//   close              flush -> the tail is cut -> fdatasync -> mark cleared -> fdatasync
//
// The steps of a write stand in mapped/allocating-write.ts and new-clusters.ts, those of a discard in deallocate.ts, and here those
// of the whole extent.

import type { GuestOffset } from '../../../bytes/offsets.ts';
import { ImgfuseError, isHostFull } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type ClosedFacts, type ImageDetails, onlyFile, type ReadableImage } from '../../image-format.ts';
import { type ImageSteps, MappedImage } from '../../mapped/mapped-image.ts';
import type { WritableExtent } from '../extent.ts';
import { type Collaborators, connect } from './collaborators.ts';
import type { TableKind } from './layout.ts';
import { finishShrink, resize } from './resize.ts';
import type { SparseState } from './state.ts';
import { reclaimLeftTables } from './unused-space.ts';

/** The mark is cleared after this long without a change. */
const IDLE_MS = 5000;

/** This thread's objects over the state of an extent. @param slot its reservation slot @param log called once per sentence */
export class SparseExtent extends MappedImage implements WritableExtent {
  private readonly collaborators: Collaborators;

  constructor(
    file: HostFile,
    state: SparseState,
    slot: number,
    backing: ReadableImage | null,
    log: (sentence: string) => void,
    { writePlaces }: Pick<TableKind, 'writePlaces'>,
  ) {
    const parts = connect(file, backing, state, slot, log);
    super(
      file,
      { format: 'vmdk', files: onlyFile(file), clusterSize: state.layout.grainBytes, ...parts },
      new SparseSteps(state, parts, writePlaces),
      state,
    );
    this.collaborators = parts;
  }

  markUnclean(): void {
    this.collaborators.access.assertWritable();
    this.collaborators.unclean.setOutsideLock();
  }
}

class SparseSteps implements ImageSteps {
  private readonly state: SparseState;
  private readonly parts: Collaborators;
  private readonly writePlaces: TableKind['writePlaces'];

  constructor(state: SparseState, parts: Collaborators, writePlaces: TableKind['writePlaces']) {
    this.state = state;
    this.parts = parts;
    this.writePlaces = writePlaces;
  }

  makeRoom(): boolean {
    return false;
  }

  preallocateFirst(offset: GuestOffset, length: number): number {
    return this.parts.allocating.preallocateFirst(offset, length);
  }

  resize(size: number): void {
    resize(this.parts, size, (places) => this.writePlaces(this.parts.file, places));
  }

  flush(): void {
    this.parts.flush.run();
  }

  maintain(nowMs: number): void {
    const { flush, lock, pending, unclean } = this.parts;
    const { overdue, idle } = lock.run(() => ({
      overdue: pending.isOverdue(nowMs),
      idle: unclean.isSet && unclean.idleMs(nowMs) >= IDLE_MS,
    }));
    if (idle) this.makeCleanIfRoom();
    else if (overdue) flush.linkEarly();
  }

  /** A full host is no fault of an idle extent: it stays marked. */
  private makeCleanIfRoom(): void {
    try {
      this.makeClean();
    } catch (error) {
      if (!isHostFull(error)) throw error;
    }
  }

  makeClean(): void {
    const { allocator, flush, free, lock, pending, reservations, second, tracker, unclean } = this.parts;
    flush.run();
    if (!unclean.isSet) return;
    finishShrink(this.parts);
    if (second.isBehind) {
      second.catchUp();
      tracker.noteWrite();
      flush.run();
    }
    reclaimLeftTables(this.parts);
    if (lock.run(() => free.unusedCount) > 0) flush.runUntilSettled();
    allocator.lowerEnd();
    let isTrimmed = false;
    unclean.clear(() => {
      if (reservations.othersExclusive() || !pending.isEmpty || second.isBehind || free.unsettledCount > 0)
        return false;
      if (!isTrimmed) allocator.trim();
      isTrimmed = true;
      return true;
    });
  }

  close(): void {
    this.makeClean();
    const { file, unclean } = this.parts;
    if (!unclean.isSet) return;
    const { path } = file;
    throw new ImgfuseError('io', `${path} stays marked as not clean; imgfuse check repairs it`, { path });
  }

  /** Free grains between others are found by a walk only. */
  closedFacts(): ClosedFacts | null {
    const { disk, free, unclean } = this.parts;
    if (unclean.isSet || free.unusedCount > 0) return null;
    return { allocatedClusters: disk.allocatedClustersOutsideLock(), phase: this.state.phase };
  }

  /** Grains lose their links, or are punched where they lie. */
  canDiscard(): boolean {
    const { backing, file, hasZeroGrains } = this.parts;
    return backing === null || hasZeroGrains || file.punchesHoles();
  }

  details(virtualSize: number): ImageDetails {
    const { layout } = this.state;
    return {
      format: 'vmdk',
      virtualSize,
      clusterSize: layout.grainBytes,
      dirty: this.parts.unclean.isSet,
      specific: {},
    };
  }
}
