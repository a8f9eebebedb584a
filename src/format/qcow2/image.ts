// The order of the durability steps of an open qcow2 image. Of a write that allocates:
//
//   counters of new clusters -> data, with copy-on-write around it -> fdatasync -> L1 entries of new L2 tables, L2 entries
//   -> fdatasync -> counters of what was replaced -> punch -> free for reuse (R5)
//
// so that a crash leaves leaks and nothing else. Its steps stand in allocating-write.ts and flush.ts, and here those of the
// whole image.

import { type GuestOffset, roundUp } from '../../bytes/offsets.ts';
import { type ClosedFacts, type ImageDetails, onlyFile, type WritableImage } from '../image-format.ts';
import { type ImageSteps, MappedImage } from '../mapped/mapped-image.ts';
import { type Collaborators, connect, type Qcow2Files } from './collaborators.ts';
import { countInStretches } from './counters/unread-free.ts';
import { describeOpenImage } from './header/describe.ts';
import { closedFactsOf } from './open/closed-clean.ts';
import { resize } from './resize.ts';
import type { Qcow2State } from './state.ts';

/** This thread's objects over the state of an image. @param slot its reservation slot @param log called once per sentence */
export function qcow2Image(
  { file, backing, dataFile }: Qcow2Files,
  state: Qcow2State,
  slot: number,
  log: (sentence: string) => void,
): WritableImage {
  const parts = connect({ file, backing, dataFile }, state, slot, log);
  const files = [...onlyFile(file), ...(dataFile === null ? [] : [{ role: 'data', file: dataFile } as const])];
  return new MappedImage(
    file,
    { format: 'qcow2', ...parts, files, dirtyBit: parts.headerBits },
    new Qcow2Steps(parts, state),
    state,
  );
}

class Qcow2Steps implements ImageSteps {
  private readonly parts: Collaborators;
  private readonly hasLeaks: boolean;

  constructor(parts: Collaborators, { hasLeaks }: Qcow2State) {
    this.parts = parts;
    this.hasLeaks = hasLeaks;
  }

  /** What needed room has tried all that there is (full-host.ts). */
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
    const { flush, lock, pending, pendingTables } = this.parts;
    if (lock.run(() => pending.isOverdue(nowMs) || pendingTables.isOverdue(nowMs))) flush.linkEarly();
  }

  /** The dirty bit stays if a request is on its way that will change counters. */
  makeClean(): void {
    const { allocator, flush, headerBits, lock, reservations } = this.parts;
    lock.run(() => allocator.giveBackAhead());
    if (!headerBits.isDirty) {
      flush.run();
      return;
    }
    flush.runUntilSettled();
    headerBits.clearDirty(() => !reservations.othersExclusive() && !flush.waitsLocked());
  }

  close(): void {
    const { allocator, flush, headerBits, lock, tracker } = this.parts;
    flush.runUntilSettled();
    if (lock.run(() => allocator.trim())) tracker.noteWrite();
    flush.run();
    headerBits.clearDirty(() => true);
  }

  /** A leak of this session may be left: the walk after the next crash finds it, or a check. */
  closedFacts(): ClosedFacts | null {
    const { clusterSize, disk, file, flush, free, headerBits, lock, numbers, unread } = this.parts;
    if (this.hasLeaks || headerBits.isDirty || headerBits.isCorrupt) return null;
    const counts = new Map<number, number>();
    const isSettled = lock.run(() => {
      free.forEachFreeRun((start, count) => countInStretches(counts, start, count));
      unread.addTo(counts);
      // the last cluster of the file may be incomplete
      return !flush.waitsLocked() && roundUp(file.size(), clusterSize) === numbers.fileEnd;
    });
    return isSettled ? closedFactsOf(disk.allocatedClustersOutsideLock(), counts) : null;
  }

  /**
   * Clusters lose their links, whatever the host can. But version 2 has no zero clusters: over a backing file its zeros are
   * written, into new clusters as well. And clusters keep their places in a data file, which must punch them.
   */
  canDiscard(): boolean {
    const { backing, dataFile, version } = this.parts;
    return !(version === 2 && backing !== null) && (dataFile?.punchesHoles() ?? true);
  }

  details(virtualSize: number): ImageDetails {
    const { clusterSize, header, headerBits } = this.parts;
    const { isCorrupt, isDirty } = headerBits;
    return describeOpenImage(header, { virtualSize, clusterSize, isDirty, isCorrupt });
  }
}
