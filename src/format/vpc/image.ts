// The order of the durability steps of an open dynamic or differencing VHD:
//
//   allocating write   bitmap and guest bytes into a block that reads as zeros -> its entry
//   over a parent (R6) bitmap, guest bytes and the parent's around them -> [held back: fdatasync] -> its entry
//   discard            entry -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//   close              flush -> batmap, if there is one -> footer behind the last block -> fdatasync -> cut -> fdatasync
//
// The format has no dirty flag: each order leaves unused space at worst, and every read-write open walks the table.

import type { GuestOffset } from '../../bytes/offsets.ts';
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
import { resize } from './resize.ts';
import type { VpcState } from './state.ts';

/** This thread's objects over the state of an image. @param slot its reservation slot @param log called once per sentence */
export function vpcImage(
  file: HostFile,
  state: VpcState,
  slot: number,
  backing: ReadableImage | null,
  log: (sentence: string) => void,
): WritableImage {
  const parts = connect(file, backing, state, slot, log);
  const { header, uuid } = state;
  const own = { format: 'vpc', files: onlyFile(file), clusterSize: header.blockSize, identity: uuid };
  return new MappedImage(file, { ...parts, ...own }, new VpcSteps(header.blockSize, parts), state);
}

class VpcSteps implements ImageSteps {
  private readonly blockSize: number;
  private readonly parts: Collaborators;

  constructor(blockSize: number, parts: Collaborators) {
    this.blockSize = blockSize;
    this.parts = parts;
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
    const { flush, lock, pending } = this.parts;
    if (lock.run(() => pending.isOverdue(nowMs))) flush.linkEarly();
  }

  makeClean(): void {
    this.parts.flush.run();
  }

  close(): void {
    const { allocator, batmap, flush, lock, tracker } = this.parts;
    flush.run();
    flush.runUntilSettled();
    if (lock.run(() => batmap.setAll())) tracker.noteWrite();
    flush.run();
    allocator.trim();
  }

  /** A read-write open walks the table, which is small, because the format cannot say that it was closed clean. */
  closedFacts(): ClosedFacts | null {
    return null;
  }

  /** Blocks lose their entries, or their data is punched where it lies. */
  canDiscard(): boolean {
    return this.parts.backing === null || this.parts.file.punchesHoles();
  }

  details(virtualSize: number): ImageDetails {
    return { format: 'vpc', virtualSize, clusterSize: this.blockSize, dirty: false, specific: {} };
  }
}
