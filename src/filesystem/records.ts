// One record for each node of the tree, shared by all threads: owner, mode, times, the bytes of the disk that a file shows, and how
// it is open. Node ids below FIXED_NODES have the record of that number; the partitions have the records behind them.
// Invariants: a number is read and changed in one step, and if two requests change owner, mode or time at the same time either may
// win. The rest changes under the mutex of handles.ts.

import { FIXED_NODES } from './nodes.ts';

/** Float64 numbers of a record. */
const MODE = 0;
const UID = 1;
const GID = 2;
const ATIME_MS = 3;
const MTIME_MS = 4;
const CTIME_MS = 5;
const NODE = 6;
const START = 7;
const END = 8;
const NUMBER = 9;
const RECORD_NUMBERS = 10;

/** Int32 counts of a record. */
const COUNTS = {
  readers: 0,
  writers: 1,
  /** those who read while somebody writes the bytes under another name */
  beside: 2,
  /** how many of all go through the pages of the kernel, or may do so */
  paged: 3,
  /** openings and closings, for writing, of files that overlap this one, and zeros that an O_TRUNC handle has left in it */
  changes: 4,
  /** how many of them the pages of the kernel are later than */
  fresh: 5,
  /** drops of its pages that are under way, and that no opening waits for */
  dropping: 6,
} as const;
const RECORD_COUNTS = 8;
export type Count = keyof typeof COUNTS;

/** The kernel numbers partitions up to 255. */
export const PARTITION_RECORDS = 256;
const RECORDS = FIXED_NODES + PARTITION_RECORDS;

export interface SharedRecords {
  readonly numbers: SharedArrayBuffer;
  readonly counts: SharedArrayBuffer;
}

export function createRecords(): SharedRecords {
  return {
    numbers: new SharedArrayBuffer(RECORDS * RECORD_NUMBERS * 8),
    counts: new SharedArrayBuffer(RECORDS * RECORD_COUNTS * 4),
  };
}

export class RecordTable {
  private readonly shared: SharedRecords;
  private readonly numbers: Float64Array;
  private readonly counts: Int32Array;

  constructor(shared: SharedRecords) {
    this.shared = shared;
    this.numbers = new Float64Array(shared.numbers);
    this.counts = new Int32Array(shared.counts);
  }

  /** The place of a record among those of partitions; null for the record of another node. */
  static partitionIndex(record: number): number | null {
    return record < FIXED_NODES ? null : record - FIXED_NODES;
  }

  /** Every record, whether a node has it or not. */
  *all(): Generator<number, void> {
    for (let record = 0; record < RECORDS; record++) yield record;
  }

  /** The records for partitions. */
  *partitions(): Generator<number, void> {
    for (let record = FIXED_NODES; record < RECORDS; record++) yield record;
  }

  attributes(record: number): SharedNode {
    return new SharedNode(this.shared, record);
  }

  /** The node that has the record; 0: none. */
  node(record: number): number {
    return this.numbers[record * RECORD_NUMBERS + NODE]!;
  }

  /** The first byte of the disk that the file shows. */
  start(record: number): number {
    return this.numbers[record * RECORD_NUMBERS + START]!;
  }

  /** The byte of the disk after the last one that the file shows; Infinity: up to the end of the disk, wherever that is. */
  end(record: number): number {
    return this.numbers[record * RECORD_NUMBERS + END]!;
  }

  /** The number of the partition; 0: it is none. */
  partition(record: number): number {
    return this.numbers[record * RECORD_NUMBERS + NUMBER]!;
  }

  /** Whether it has that partition, in that place. */
  shows(record: number, partition: number, start: number, end: number): boolean {
    return this.partition(record) === partition && this.start(record) === start && this.end(record) === end;
  }

  /** Gives the record to a node, which shows bytes [start, end) of the disk. @param partition its number, if it is one */
  assign(record: number, node: number, start = 0, end = 0, partition = 0): void {
    this.counts.fill(0, record * RECORD_COUNTS, (record + 1) * RECORD_COUNTS);
    this.numbers.set([node, start, end, partition], record * RECORD_NUMBERS + NODE);
  }

  /** Takes the record from its node. */
  clear(record: number): void {
    this.assign(record, 0);
  }

  count(record: number, which: Count): number {
    return this.counts[record * RECORD_COUNTS + COUNTS[which]]!;
  }

  add(record: number, which: Count, change: number): void {
    this.counts[record * RECORD_COUNTS + COUNTS[which]]! += change;
  }

  /** The pages of the kernel are as new as the bytes of the disk. */
  isFresh(record: number): boolean {
    return this.count(record, 'fresh') === this.count(record, 'changes');
  }

  /** The kernel has dropped its pages after the last change. */
  noteFresh(record: number): void {
    this.counts[record * RECORD_COUNTS + COUNTS.fresh] = this.count(record, 'changes');
  }

  /** Bytes of the file may have changed through another one. */
  noteChanged(record: number, through: number): void {
    this.add(record, 'changes', 1);
    const at = record * RECORD_NUMBERS;
    const modified = this.numbers[through * RECORD_NUMBERS + MTIME_MS]!;
    for (const time of [MTIME_MS, CTIME_MS]) {
      if (this.numbers[at + time]! < modified) this.numbers[at + time] = modified;
    }
  }

  /** Calls `act` with every record that shows a byte of those that this one shows, itself aside. */
  forOverlapping(record: number, act: (other: number) => void): void {
    const [start, end] = [this.start(record), this.end(record)];
    for (let other = 0; other < RECORDS; other++) {
      if (other !== record && this.start(other) < end && start < this.end(other)) act(other);
    }
  }
}

/** Owner, mode and times of one node. */
export class SharedNode {
  private readonly values: Float64Array;

  constructor({ numbers }: Pick<SharedRecords, 'numbers'>, record: number) {
    this.values = new Float64Array(numbers, record * RECORD_NUMBERS * Float64Array.BYTES_PER_ELEMENT, RECORD_NUMBERS);
  }

  /** File type and permission bits. */
  get mode(): number {
    return this.values[MODE]!;
  }

  set mode(mode: number) {
    this.values[MODE] = mode;
  }

  get uid(): number {
    return this.values[UID]!;
  }

  set uid(uid: number) {
    this.values[UID] = uid;
  }

  get gid(): number {
    return this.values[GID]!;
  }

  set gid(gid: number) {
    this.values[GID] = gid;
  }

  /** ms since the epoch, like the other two */
  get atimeMs(): number {
    return this.values[ATIME_MS]!;
  }

  set atimeMs(time: number) {
    this.values[ATIME_MS] = time;
  }

  get mtimeMs(): number {
    return this.values[MTIME_MS]!;
  }

  set mtimeMs(time: number) {
    this.values[MTIME_MS] = time;
  }

  get ctimeMs(): number {
    return this.values[CTIME_MS]!;
  }

  set ctimeMs(time: number) {
    this.values[CTIME_MS] = time;
  }
}
