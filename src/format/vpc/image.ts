// The order of the durability steps of an open dynamic or differencing VHD:
//
//   allocating write   bitmap and guest bytes into a block that reads as zeros -> its entry
//   over a parent (R6) guest bytes -> the entry, without bits -> [held back: fdatasync] -> bits of the sectors
//   discard            entry -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//   close              flush -> batmap, if there is one -> footer behind the last block -> fdatasync -> cut -> fdatasync
//
// The format has no dirty flag: each order leaves unused space at worst, and every read-write open walks the table.

import { type GuestOffset, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
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
import { timestampOf } from './header/footer.ts';
import { type DynamicHeader, HEADER_BYTES, headerWithParentTimestamp } from './header/header.ts';
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
  return new MappedImage(
    file,
    { format: 'vpc', files: onlyFile(file), clusterSize: header.blockSize, identity: uuid, ...parts },
    new VpcSteps(header, parts),
    state,
  );
}

class VpcSteps implements ImageSteps {
  private readonly header: DynamicHeader;
  private readonly parts: Collaborators;

  constructor(header: DynamicHeader, parts: Collaborators) {
    this.header = header;
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
    const { bitmaps, flush, lock } = this.parts;
    if (lock.run(() => bitmaps.waiting.isOverdue(nowMs))) flush.linkEarly();
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
    noteParent(this.parts, this.header);
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
    return { format: 'vpc', virtualSize, clusterSize: this.header.blockSize, dirty: false, specific: {} };
  }
}

/** An image that has nothing, as after a commit, is right over its parent as that is now: no later open warns of a change. */
function noteParent({ backing, disk, file, tracker }: Collaborators, header: DynamicHeader): void {
  const modifiedMs = backing?.file.modifiedMs() ?? null;
  if (modifiedMs === null || header.parentTimestamp === 0 || disk.allocatedClustersOutsideLock() > 0) return;
  const timestamp = timestampOf(modifiedMs);
  if (timestamp === header.parentTimestamp) return;
  const at = hostOffset(header.offset);
  const bytes = new Uint8Array(HEADER_BYTES);
  file.read(bytes, 0, HEADER_BYTES, at);
  const sector = headerWithParentTimestamp(bytes, timestamp);
  tracker.writeMetadata('header-update', () => file.write(sector, 0, SECTOR_BYTES, at));
  tracker.sync();
}
