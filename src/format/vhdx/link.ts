// Changes of metadata, of entries of the BAT most of all: each is an entry of the log, and shows from then on. It is written in its
// place by a flush (flush.ts). Used under the metadata lock, which is released while the log is begun or has no room.

import { after, type GuestCluster } from '../../bytes/offsets.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { type Bat, entryOf } from './bat.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';
import { type LogWriter, type Patch, sectorsOf } from './log/writer.ts';
import type { Session } from './session.ts';
import type { VhdxNumbers } from './state.ts';

export interface LinkerParts {
  readonly bat: Bat;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly logWriter: LogWriter;
  readonly numbers: VhdxNumbers;
  readonly session: Session;
  /** makes the log, and what it holds in its places, durable; without the lock */
  readonly makeRoom: () => void;
}

export class Linker {
  private readonly parts: LinkerParts;

  constructor(parts: LinkerParts) {
    this.parts = parts;
  }

  /**
   * Blocks from `block` on that one hold of the lock changes: their entries lie in one sector of the file, or in two, because the
   * entry of a bitmap may stand between them.
   */
  span(block: GuestCluster): number {
    const { bat, geometry } = this.parts;
    return bat.entriesInSector(geometry.entryOf(block));
  }

  /** Sets the entry of a block. The block is reserved exclusively. @throws no-space, io: nothing has changed */
  set(block: GuestCluster, state: number, place: number): void {
    this.commit([this.patchOf(block, state, place)]);
  }

  /** The same entry, which leads to no block, for each of these. */
  setEach(blocks: readonly GuestCluster[], state: number): void {
    this.commit(blocks.map((block) => this.patchOf(block, state, 0)));
  }

  /** Makes changes of metadata, all of them or none. What this changes nobody else does meanwhile. */
  commit(patches: readonly Patch[]): void {
    const { bat, lock, logWriter, makeRoom, numbers, session } = this.parts;
    const sectors = sectorsOf(patches);
    for (;;) {
      session.startLog();
      if (logWriter.hasRoomFor(sectors)) break;
      lock.unlock();
      try {
        makeRoom();
      } finally {
        lock.lock();
      }
    }
    logWriter.write(patches);
    for (const { bytes, offset } of patches) bat.slices.written(offset, bytes);
    numbers.noteChange(steadyMs());
  }

  private patchOf(block: GuestCluster, state: number, place: number): Patch {
    const { bat, geometry } = this.parts;
    return { offset: after(bat.start, geometry.entryOf(block) * ENTRY_BYTES), bytes: entryOf(state, place) };
  }
}
