// Sectors of metadata that the log holds and that are not in their places yet, durably; all threads share them. Reads find a sector
// here first, and each new entry of the log has all of them, so that the newest entry alone is what a replay needs. Used under the
// metadata lock.
//
//   put by a commit -> the log is durable: written in its place -> that is durable: removed
//
// A sector that changes again begins anew.

import { type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import { assert } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import type { TableFile } from '../../mapped/table-slices.ts';
import { LOG_SECTOR_BYTES } from './ring.ts';
import { MAX_ENTRY_SECTORS } from './serialize-entry.ts';

const COUNT = 0;
const FIRST_SLOT = 1;
/** Numbers of a slot: its offset in the file, the entry that changed it last, the entry whose content is in the place (0: none) */
const STRIDE = 3;
const OFFSET = 0;
const CHANGED = 1;
const PLACED = 2;

export interface UnplacedSectorsState {
  readonly numbers: SharedArrayBuffer;
  readonly bytes: SharedArrayBuffer;
}

/** @param capacity 0 for an image that is not written */
export function createUnplacedSectorsState(capacity: number): UnplacedSectorsState {
  return {
    numbers: new SharedArrayBuffer((FIRST_SLOT + capacity * STRIDE) * 8),
    bytes: new SharedArrayBuffer(capacity * LOG_SECTOR_BYTES),
  };
}

/** A sector as it was when it was looked at. */
export interface PlacedSector {
  readonly offset: number;
  readonly changed: number;
}

export class UnplacedSectors {
  private readonly file: HostFile;
  private readonly numbers: Float64Array;
  private readonly bytes: Uint8Array;
  private readonly capacity: number;

  constructor(file: HostFile, state: UnplacedSectorsState) {
    this.file = file;
    this.numbers = new Float64Array(state.numbers);
    this.bytes = new Uint8Array(state.bytes);
    this.capacity = Math.min(MAX_ENTRY_SECTORS, Math.floor(state.bytes.byteLength / LOG_SECTOR_BYTES));
  }

  get count(): number {
    return this.numbers[COUNT]!;
  }

  /** Whether so many sectors could be here at the same time. */
  fits(sectors: number): boolean {
    return sectors <= this.capacity;
  }

  /** Offsets of all of them, in the order of copyTo(). */
  offsets(): number[] {
    return Array.from({ length: this.count }, (_, slot) => this.get(slot, OFFSET));
  }

  has(offset: number): boolean {
    return this.find(offset) >= 0;
  }

  /** The sector at `offset` of the file as it is by now. */
  readSector(offset: number, target: Uint8Array, targetOffset: number): void {
    const slot = this.find(offset);
    if (slot < 0) readPadded(this.file, target, targetOffset, LOG_SECTOR_BYTES, hostOffset(offset));
    else target.set(this.sector(slot), targetOffset);
  }

  /** The file with what is here, for tables. */
  tableFile(): TableFile {
    const { file } = this;
    return {
      path: file.path,
      size: () => file.size(),
      read: (target, targetOffset, length, offset) => this.read(target, targetOffset, length, offset),
    };
  }

  private read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    const got = this.file.read(target, targetOffset, length, offset);
    for (let slot = 0; slot < this.count; slot++) {
      const at = this.get(slot, OFFSET);
      const start = Math.max(offset, at);
      const end = Math.min(offset + got, at + LOG_SECTOR_BYTES);
      if (start < end) target.set(this.sector(slot).subarray(start - at, end - at), targetOffset + start - offset);
    }
    return got;
  }

  /** The log holds this sector, from entry `sequence` on. */
  put(offset: number, content: Uint8Array, sequence: number): void {
    let slot = this.find(offset);
    if (slot < 0) {
      slot = this.count;
      assert(slot < this.capacity, 'there is room for the sectors of a log entry');
      this.numbers[COUNT] = slot + 1;
    }
    this.set(slot, OFFSET, offset);
    this.set(slot, CHANGED, sequence);
    this.set(slot, PLACED, 0);
    this.sector(slot).set(content);
  }

  /** Nobody needs what lies in this range any more; no entry after the next one has it. */
  forget(start: number, bytes: number): void {
    for (let slot = this.count - 1; slot >= 0; slot--) {
      const offset = this.get(slot, OFFSET);
      if (offset >= start && offset < start + bytes) this.removeSlot(slot);
    }
  }

  /** Those that are in their places, perhaps not durably. */
  placed(): PlacedSector[] {
    const placed: PlacedSector[] = [];
    for (let slot = 0; slot < this.count; slot++) {
      const changed = this.get(slot, CHANGED);
      if (this.get(slot, PLACED) === changed) placed.push({ offset: this.get(slot, OFFSET), changed });
    }
    return placed;
  }

  /** Their places are durable; those that were changed meanwhile stay. */
  remove(placed: readonly PlacedSector[]): void {
    for (const { changed, offset } of placed) {
      const slot = this.find(offset);
      if (slot >= 0 && this.get(slot, CHANGED) === changed) this.removeSlot(slot);
    }
  }

  /**
   * Writes sectors to their places that no entry after `sequence`, which is durable, has changed; `most` of them. @returns whether
   * there may be more
   */
  place(sequence: number, most: number): boolean {
    let written = 0;
    for (let slot = 0; slot < this.count; slot++) {
      const changed = this.get(slot, CHANGED);
      if (changed > sequence || this.get(slot, PLACED) === changed) continue;
      if (written === most) return true;
      failpoint('link');
      this.file.write(this.sector(slot), 0, LOG_SECTOR_BYTES, hostOffset(this.get(slot, OFFSET)));
      this.set(slot, PLACED, changed);
      written++;
    }
    return false;
  }

  private removeSlot(slot: number): void {
    const last = this.count - 1;
    this.numbers.copyWithin(FIRST_SLOT + slot * STRIDE, FIRST_SLOT + last * STRIDE, FIRST_SLOT + (last + 1) * STRIDE);
    this.sector(slot).set(this.sector(last));
    this.numbers[COUNT] = last;
  }

  private find(offset: number): number {
    for (let slot = 0; slot < this.count; slot++) if (this.get(slot, OFFSET) === offset) return slot;
    return -1;
  }

  private sector(slot: number): Uint8Array {
    return this.bytes.subarray(slot * LOG_SECTOR_BYTES, (slot + 1) * LOG_SECTOR_BYTES);
  }

  private get(slot: number, field: number): number {
    return this.numbers[FIRST_SLOT + slot * STRIDE + field]!;
  }

  private set(slot: number, field: number, value: number): void {
    this.numbers[FIRST_SLOT + slot * STRIDE + field] = value;
  }
}
