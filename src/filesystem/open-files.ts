// The files that are open, one slot each, as far as there are slots: an open file without one is served all the same, and only its
// process is not known. Guarded by the mutex of handles.ts.

/** Int32 numbers of a slot. */
const RECORD = 0;
const PID = 1;
const MODE = 2;
const SLOT_NUMBERS = 3;

/** Values of MODE; 0: the slot is free. */
const FREE = 0;
const READS = 1;
const WRITES = 2;
const READS_BESIDE = 3;

/** Slot 0 stands for "none". */
const NO_SLOT = 0;
const SLOTS = 1024;

export interface OpenFile {
  readonly record: number;
  readonly writes: boolean;
  /** it reads while somebody writes the bytes under another name */
  readonly isBeside: boolean;
  /** of the process that opened it; 0: not known */
  readonly pid: number;
}

export function createOpenFiles(): SharedArrayBuffer {
  return new SharedArrayBuffer(SLOTS * SLOT_NUMBERS * 4);
}

export class OpenFiles {
  private readonly slots: Int32Array;

  constructor(state: SharedArrayBuffer) {
    this.slots = new Int32Array(state);
  }

  /** @returns the slot, or NO_SLOT */
  add({ record, writes, isBeside, pid }: OpenFile): number {
    for (let slot = NO_SLOT + 1; slot < SLOTS; slot++) {
      if (this.at(slot, MODE) !== FREE) continue;
      this.slots.set([record, pid, writes ? WRITES : isBeside ? READS_BESIDE : READS], slot * SLOT_NUMBERS);
      return slot;
    }
    return NO_SLOT;
  }

  /** @param slot may be NO_SLOT */
  remove(slot: number): void {
    if (slot > NO_SLOT && slot < SLOTS) this.slots[slot * SLOT_NUMBERS + MODE] = FREE;
  }

  /** The process that has the file of that record open for writing, or reads it through pages; 0: not known. */
  holder(record: number, writes: boolean): number {
    const wanted = writes ? WRITES : READS;
    for (let slot = NO_SLOT + 1; slot < SLOTS; slot++) {
      if (this.at(slot, RECORD) === record && this.at(slot, MODE) === wanted) return this.at(slot, PID);
    }
    return 0;
  }

  private at(slot: number, number: number): number {
    return this.slots[slot * SLOT_NUMBERS + number]!;
  }
}
