// The order of the durability steps of an open qcow image; it has no dirty bit, so no step may leave more than a leak:
//
//   allocating write   guest bytes -> [held back: fdatasync] -> (new L2) L1 entry -> L2 entries
//   discard            L2 entries -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//   close              flush -> the free clusters at the end are cut off
//
// The steps of a write stand in allocating-write.ts and flush.ts, those of a discard in deallocate.ts.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
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
import { describeHeader, type QcowHeader } from './header.ts';
import type { QcowState } from './state.ts';

/** This thread's objects over the state of an image. @param slot its reservation slot @param log called once per sentence */
export function qcowImage(
  file: HostFile,
  state: QcowState,
  slot: number,
  backing: ReadableImage | null,
  log: (sentence: string) => void,
): WritableImage {
  const parts = connect(file, backing, state, slot, log);
  const { clusterSize } = parts.geometry;
  return new MappedImage(
    file,
    { format: 'qcow', files: onlyFile(file), clusterSize, dirtyBit: null, ...parts },
    new QcowSteps(state.header, parts),
    state,
  );
}

class QcowSteps implements ImageSteps {
  private readonly header: QcowHeader;
  private readonly parts: Collaborators;

  constructor(header: QcowHeader, parts: Collaborators) {
    this.header = header;
    this.parts = parts;
  }

  makeRoom(): boolean {
    return false;
  }

  preallocateFirst(offset: GuestOffset, length: number): number {
    return this.parts.allocating.preallocateFirst(offset, length);
  }

  resize(): void {
    const { path } = this.parts.file;
    throw new ImgfuseError('unsupported', `${path}: a qcow image of version 1 keeps its size`, { path });
  }

  flush(): void {
    this.parts.flush.run();
  }

  maintain(nowMs: number): void {
    const { flush, lock, pending } = this.parts;
    if (lock.run(() => pending.isOverdue(nowMs))) flush.linkEarly();
  }

  makeClean(): void {
    this.parts.flush.run();
  }

  close(): void {
    const { allocator, flush, free, lock, tracker } = this.parts;
    flush.run();
    if (lock.run(() => free.unusedCount) > 0) flush.runUntilSettled();
    if (tracker.failure() === null) allocator.trimInPieces(lock);
  }

  closedFacts(): ClosedFacts | null {
    const { disk, free, lock } = this.parts;
    const hasLeaks = lock.run(() => free.unusedCount > 0);
    return hasLeaks ? null : { allocatedClusters: disk.allocatedClustersOutsideLock() };
  }

  /** Clusters lose their links, or are punched where they lie. */
  canDiscard(): boolean {
    const { backing, data, file } = this.parts;
    return backing === null || (!data.isEncrypted && file.punchesHoles());
  }

  details(virtualSize: number): ImageDetails {
    return { ...describeHeader(this.header), virtualSize };
  }
}
