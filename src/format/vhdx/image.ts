// The order of the durability steps of an open VHDX:
//
//   first change             new GUIDs in the headers (durable) -> the change
//   first change of tables   an empty log entry (durable) -> the headers name the log (durable) -> the change
//   allocating write         guest bytes into a block that reads as zeros -> log entry
//   over a parent (R6)       log entry of a block without bits -> guest bytes -> [held back: fdatasync] -> log entry with the bits
//   discard                  log entry -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//   flush                    fdatasync -> what the log holds is written in its places
//   close                    flush -> places durable -> the headers name no log (durable) -> the file is cut
//
// The steps of a write stand in allocating-write.ts, those of a discard in deallocate.ts, those of the headers in session.ts, and here
// those of the whole image.

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
import { MIB } from './header/fields.ts';
import { viewOf } from './header/layout.ts';
import { linkagePatches } from './parent.ts';
import { resize } from './resize.ts';
import type { VhdxState } from './state.ts';

/** The log is cleared, and what the file was made longer for nothing is cut, after this long without a change of tables. */
const IDLE_MS = 5000;

/** This thread's objects over the state of an image. @param slot its reservation slot @param log called once per sentence */
export function vhdxImage(
  file: HostFile,
  state: VhdxState,
  slot: number,
  parent: ReadableImage | null,
  log: (sentence: string) => void,
): WritableImage {
  const parts = connect(viewOf(file, state.replay), parent, state, slot, log);
  const { details, disk } = state;
  const named = { format: 'vhdx', files: onlyFile(file), clusterSize: disk.blockBytes, identity: details.identity! };
  const adoptParent = (identity: string) => storeParent(parts, identity);
  return new MappedImage(file, { adoptParent, ...named, ...parts }, new VhdxSteps(parts), state);
}

/** Durable in the log. What the guest sees stays the same, so the DataWriteGuid does as well. */
function storeParent({ flush, linker, lock, state, tracker }: Collaborators, identity: string): void {
  lock.run(() => linker.commit(() => linkagePatches(state.disk, identity), { isSeen: false }));
  tracker.noteWrite();
  flush.run();
}

/** Ends the work on an image that nobody else has open. */
export function closeParts(parts: Collaborators): void {
  new VhdxSteps(parts).close();
}

class VhdxSteps implements ImageSteps {
  private readonly parts: Collaborators;

  constructor(parts: Collaborators) {
    this.parts = parts;
  }

  makeRoom(): boolean {
    return false;
  }

  preallocateFirst(offset: GuestOffset, length: number): number {
    return this.parts.allocating.preallocateFirst(offset, length, true);
  }

  resize(size: number): void {
    resize(this.parts, size);
  }

  flush(): void {
    this.parts.flush.run();
  }

  maintain(nowMs: number): void {
    const { bitmaps, flush, lock, numbers, session } = this.parts;
    const { idleMs, isOverdue } = lock.run(() => ({
      idleMs: nowMs - numbers.lastChangeMs,
      isOverdue: bitmaps.waiting.isOverdue(nowMs),
    }));
    if (isOverdue) flush.linkEarly();
    else if (session.isLogging && idleMs >= IDLE_MS) this.makeClean();
  }

  makeClean(): void {
    const { allocator, bitmaps, file, flush, free, lock, session, tracker, unplaced } = this.parts;
    flush.run();
    if (session.isChanged && lock.run(() => free.unusedCount) > 0) flush.runUntilSettled();
    if (session.isLogging) flush.placeAll();
    session.clear(
      () => unplaced.count === 0 && bitmaps.waiting.isEmpty,
      () => {
        const before = file.size();
        allocator.trimInPieces(lock);
        if (file.size() !== before) tracker.sync();
      },
    );
  }

  close(): void {
    this.makeClean();
    const { file, session } = this.parts;
    if (!session.isLogging) return;
    const { path } = file;
    throw new ImgfuseError('io', `${path} is not closed: its log holds changes; the next open carries them out`, {
      path,
    });
  }

  /** Gaps between blocks are found by a walk. */
  closedFacts(): ClosedFacts | null {
    const { disk, free, lock, numbers, session } = this.parts;
    if (session.isLogging) return null;
    const { isCompact, units } = lock.run(() => ({
      isCompact: free.unusedCount === 0 && numbers.fileLength === numbers.fileEnd,
      units: numbers.fileEnd / MIB,
    }));
    return isCompact ? { allocatedClusters: disk.allocatedClustersOutsideLock(), units } : null;
  }

  /** Blocks lose their places; those of a fixed image are punched where they are, if the host can do that. */
  canDiscard(): boolean {
    return !this.parts.isFixed || this.parts.file.punchesHoles();
  }

  details(virtualSize: number): ImageDetails {
    const { session, state } = this.parts;
    const { dataWriteGuid, details } = state;
    const identity = session.isAnnounced ? dataWriteGuid : details.identity!;
    return { ...details, virtualSize, identity, dirty: details.dirty || session.isLogging };
  }
}
