// Changes of metadata, of entries of the BAT and bits of bitmaps most of all: each is an entry of the log, and shows from then on. It is
// written in its place by a flush (flush.ts). Used under the metadata lock, which is released while the log is begun or has no room.

import { after, type GuestCluster, type HostOffset } from '../../bytes/offsets.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import {
  type Bat,
  entryOf,
  PAYLOAD_BLOCK_FULLY_PRESENT,
  PAYLOAD_BLOCK_PARTIALLY_PRESENT,
  SB_BLOCK_NOT_PRESENT,
  SB_BLOCK_PRESENT,
} from './bat.ts';
import { type Bitmaps, WORD_BYTES } from './bitmaps.ts';
import { BITMAP_BYTES, ENTRY_BYTES, type Geometry } from './geometry.ts';
import { LOG_SECTOR_BYTES } from './log/ring.ts';
import type { UnplacedSectors } from './log/unplaced-sectors.ts';
import { type LogWriter, type Patch, sectorsOf } from './log/writer.ts';
import type { Mapper } from './mapping.ts';
import type { Session } from './session.ts';
import type { VhdxNumbers } from './state.ts';

export interface LinkerParts {
  readonly bat: Bat;
  readonly bitmaps: Bitmaps;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly logWriter: LogWriter;
  readonly mapper: Mapper;
  readonly numbers: VhdxNumbers;
  readonly session: Session;
  readonly unplaced: UnplacedSectors;
  /** makes the log, and what it holds in its places, durable; without the lock */
  readonly makeRoom: () => void;
}

/** How a change is made. */
export interface CommitHow {
  /** false: the guest and the children of the image see what they saw before; default: they may not */
  readonly isSeen?: boolean;
  /** instead of that of the linker, for whoever runs a flush */
  readonly makeRoom?: () => void;
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
    this.commit(() => [this.patchOf(block, state, place)]);
  }

  /** The same entry, which leads to no block, for each of these. */
  setEach(blocks: readonly GuestCluster[], state: number, how?: CommitHow): void {
    this.commit(() => blocks.map((block) => this.patchOf(block, state, 0)), how);
  }

  /**
   * A block without data, which is reserved exclusively, gets a place in which no sector is here yet: its entry, its bits, and the
   * entry of its bitmap if the chunk has none, are one entry of the log. @param spare a place for a bitmap; null: the chunk has one
   * @returns whether `spare` is that bitmap now
   */
  setPartial(block: GuestCluster, host: HostOffset, spare: HostOffset | null): boolean {
    const { bat, bitmaps, geometry, mapper } = this.parts;
    let isUsed = false;
    this.commit(() => {
      isUsed = spare !== null && !mapper.hasBitmap(block);
      const patches = [this.patchOf(block, PAYLOAD_BLOCK_PARTIALLY_PRESENT, host)];
      if (isUsed) {
        // something else may have been cached from there
        bat.slices.forget(spare!, BITMAP_BYTES);
        patches.push(this.bitmapPatch(geometry.chunkOf(block), SB_BLOCK_PRESENT, spare!));
        return [...patches, ...this.noBits(block, spare!)];
      }
      const bitmap = mapper.bitmapOf(block);
      const sectors = geometry.blockBytes / geometry.sectorBytes;
      const first = block * sectors;
      // bits that an earlier life of the block has left behind
      const isClear = bitmaps.endOfStored(bitmap, first, first + sectors, false) === first + sectors;
      return isClear ? patches : [...patches, ...this.noBits(block, bitmap)];
    });
    return isUsed;
  }

  /** Blocks of which all sectors are here need no bits any more. Those that are not, or are partially present no more, stay. */
  completeBlocks(blocks: readonly GuestCluster[], how: CommitHow): void {
    const { mapper } = this.parts;
    const full = (): GuestCluster[] => blocks.filter((block) => mapper.isCompleteStored(block));
    if (full().length === 0) return;
    this.commit(
      () => full().map((block) => this.patchOf(block, PAYLOAD_BLOCK_FULLY_PRESENT, mapper.lookup(block).place!)),
      how,
    );
  }

  /** Words of bitmaps get these bits: as many as there are, or none of them. */
  setWords(build: () => readonly { readonly place: HostOffset; readonly bits: number }[], how: CommitHow): void {
    this.commit(
      () =>
        build().map(({ bits, place }) => {
          const bytes = new Uint8Array(WORD_BYTES);
          new DataView(bytes.buffer).setUint32(0, bits, true);
          return { offset: place, bytes };
        }),
      how,
    );
  }

  /**
   * The bitmap of a chunk is not needed any more, if `isUnused` says so under the lock. All blocks of the chunk are reserved exclusively,
   * or lie behind the end of the disk. @returns its place, which the caller frees; null: it stays, or there is none
   */
  removeBitmap(chunk: number, isUnused: () => boolean): HostOffset | null {
    const { bat, geometry, mapper, unplaced } = this.parts;
    const first = geometry.firstBlockOf(chunk);
    if (!mapper.hasBitmap(first) || !isUnused()) return null;
    const place = mapper.bitmapOf(first);
    this.commit(() => [this.bitmapPatch(chunk, SB_BLOCK_NOT_PRESENT, 0)], { isSeen: false });
    // nobody writes them to their places any more, where soon something else may be
    unplaced.forget(place, BITMAP_BYTES);
    bat.slices.forget(place, BITMAP_BYTES);
    return place;
  }

  /** Entries of bitmaps of chunks [first, end) say that there is none, whatever they said. */
  forgetBitmaps(first: number, end: number): void {
    const { bat, geometry } = this.parts;
    for (let chunk = first; chunk < end; chunk++) {
      const index = geometry.bitmapEntryOf(chunk);
      if (bat.low(index) === 0 && bat.offset(index) === 0) continue;
      this.commit(() => [this.bitmapPatch(chunk, SB_BLOCK_NOT_PRESENT, 0)]);
    }
  }

  /**
   * Makes changes of metadata, all of them or none. What this changes nobody else does meanwhile. @param build called under the lock, in
   * the hold in which the changes are made; perhaps more than once
   */
  commit(build: () => readonly Patch[], { isSeen = true, makeRoom = this.parts.makeRoom }: CommitHow = {}): void {
    const { bat, lock, logWriter, numbers, session } = this.parts;
    let patches: readonly Patch[];
    for (;;) {
      session.startLog(isSeen);
      patches = build();
      if (patches.length === 0) return;
      if (logWriter.hasRoomFor(sectorsOf(patches))) break;
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
    return this.entryPatch(this.parts.geometry.entryOf(block), state, place);
  }

  private bitmapPatch(chunk: number, state: number, place: number): Patch {
    return this.entryPatch(this.parts.geometry.bitmapEntryOf(chunk), state, place);
  }

  private entryPatch(index: number, state: number, place: number): Patch {
    return { offset: after(this.parts.bat.start, index * ENTRY_BYTES), bytes: entryOf(state, place) };
  }

  /** No sector of a block is here. */
  private noBits(block: GuestCluster, bitmap: HostOffset): Patch[] {
    const { geometry } = this.parts;
    const start = after(bitmap, geometry.bitsAt(block));
    const end = after(start, geometry.bitsBytes);
    const patches: Patch[] = [];
    for (let at = start; at < end; ) {
      const next = Math.min(end, at - (at % LOG_SECTOR_BYTES) + LOG_SECTOR_BYTES);
      patches.push({ offset: at, bytes: new Uint8Array(next - at) });
      at = after(at, next - at);
    }
    return patches;
  }
}
