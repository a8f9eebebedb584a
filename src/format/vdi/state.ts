// What all threads of an open VDI image share beside what every image of tables has: where map and blocks begin, how many
// blocks are in use and how many the header says are. Guarded by the metadata lock.

import { type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';
import { FIRST_OWN_NUMBER } from '../mapped/disk-numbers.ts';
import { LockedNumbers, type LockedNumbersParts } from '../mapped/locked-numbers.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import type { VdiHeader } from './header.ts';

/** The Int32 words behind the metadata lock: 1 when the new uuidModify is in the file and durable; the words of its mark */
export const MODIFIED = 1;
export const MODIFY_MARK = 2;
/** the lock of whoever changes cBlocksAllocated and the length of the file */
export const RESERVE_LOCK = 4;
const WORD_COUNT = 5;

/** Float64 numbers: VdiNumbers says what they are. */
const MAP_OFFSET = FIRST_OWN_NUMBER;
const DATA_OFFSET = FIRST_OWN_NUMBER + 1;
const BLOCK_COUNT = FIRST_OWN_NUMBER + 2;
const END = FIRST_OWN_NUMBER + 3;
const RESERVED = FIRST_OWN_NUMBER + 4;
const LAST_CHANGE_MS = FIRST_OWN_NUMBER + 5;
const NUMBER_COUNT = FIRST_OWN_NUMBER + 6;

export interface VdiState extends MappedState {
  readonly header: VdiHeader;
  /** the uuidModify that the first write gives the image */
  readonly nextModify: string;
}

export interface VdiStateOptions extends MappedStateOptions {
  /** blocks of the file that entries may lead to: the highest index that is in use, and 1 */
  readonly end: number;
  /** cBlocksAllocated in the file, durable */
  readonly reserved: number;
  readonly nextModify: string;
}

export function createVdiState(header: VdiHeader, options: VdiStateOptions): VdiState {
  const { blockSize, blockCount, dataOffset, mapOffset } = header;
  const format = { clusterSize: blockSize, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT };
  const state = { header, ...createMappedState(options, format), nextModify: options.nextModify };
  const numbers = new Float64Array(state.numbers);
  numbers[MAP_OFFSET] = mapOffset;
  numbers[DATA_OFFSET] = dataOffset;
  numbers[BLOCK_COUNT] = blockCount;
  numbers[END] = options.end;
  numbers[RESERVED] = options.reserved;
  return state;
}

/** The numbers of an open VDI image beside DiskNumbers. Each needs the metadata lock. */
export class VdiNumbers {
  private readonly numbers: LockedNumbers;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

  /** Where the map begins. */
  get mapOffset(): HostOffset {
    return hostOffset(this.numbers.get(MAP_OFFSET));
  }

  /** Where host block 0 begins. */
  get dataOffset(): number {
    return this.numbers.get(DATA_OFFSET);
  }

  /** Entries of the map, which no index reaches. */
  get blockCount(): number {
    return this.numbers.get(BLOCK_COUNT);
  }

  /** The header has these places now. */
  noteLayout(mapOffset: number, dataOffset: number, blockCount: number): void {
    this.numbers.set(MAP_OFFSET, mapOffset);
    this.numbers.set(DATA_OFFSET, dataOffset);
    this.numbers.set(BLOCK_COUNT, blockCount);
  }

  /** First host block that was never used, or is not any more; the next new one. */
  get end(): number {
    return this.numbers.get(END);
  }

  /** Blocks up to `end` are in use. */
  advanceEnd(end: number): void {
    assert(end >= this.end && end <= this.reserved, 'blocks are appended inside what is reserved');
    this.numbers.set(END, end);
  }

  /** The blocks from `end` on are not in use any more. */
  lowerEnd(end: number): void {
    assert(end <= this.end, 'only an append moves the end of the blocks in use up');
    this.numbers.set(END, end);
  }

  /** cBlocksAllocated in the file, and durable: the file has so many blocks, and those from `end` on read as zeros. */
  get reserved(): number {
    return this.numbers.get(RESERVED);
  }

  noteReserved(blocks: number): void {
    assert(blocks >= this.end, 'blocks in use stay reserved');
    this.numbers.set(RESERVED, blocks);
  }

  /** steadyMs() of the last allocation. */
  get lastChangeMs(): number {
    return this.numbers.get(LAST_CHANGE_MS);
  }

  noteChange(nowMs: number): void {
    this.numbers.set(LAST_CHANGE_MS, nowMs);
  }
}
