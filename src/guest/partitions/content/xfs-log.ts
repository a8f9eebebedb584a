// The log of an XFS: whether it ends in an unmount record, which a clean unmount writes last. Invariant: at most a few hundred blocks are
// read, and what is not understood is not called clean.
//
//   of the superblock: 4 block size u32   48 first block of the log u64 (0: another device)   84 blocks of an allocation group u32
//     96 blocks of the log u32   124 log2 of a group's blocks, rounded up u8; all big-endian
//   of a record in the log: 0 0xfeedbabe   4 cycle u32   8 version u32   12 length u32   40 operations u32   320 size u32
//   The log is a ring of 512-byte blocks. Each block begins with the number of the round in which it was written, its cycle;
//   the first block of a record has the magic there, and the cycle behind it.

import { combine } from '../../../bytes/endian.ts';
import { divideUp } from '../../../bytes/offsets.ts';
import type { Volume } from './volume.ts';

const XLOG_HEADER_MAGIC = 0xfeedbabe;
const BLOCK_BYTES = 512;
const XLOG_VERSION_2 = 2;
/** Each begun part of a record's size takes a header block of its own. */
const XLOG_HEADER_CYCLE_SIZE = 32 * 1024;
/** The flag of an operation; its header: 0 u32, 4 length u32, 8 client, 9 flags */
const XLOG_UNMOUNT_TRANS = 0x20;
const OPERATION_FLAGS_OFFSET = 9;
/** A record is padded to the stripe of the log, 256 KiB at most, and has up to 8 header blocks. */
const MAX_RECORD_BLOCKS = 512 + 8;

/** @param superblock the first 512 bytes @returns null if it cannot be told: a log on another device, or damage */
export function xfsNeedsRecovery(volume: Volume, superblock: DataView): boolean | null {
  const log = XfsLog.of(volume, superblock);
  if (log === null) return null;
  const head = log.findHead();
  if (head === null) return null;
  // nothing was ever written
  if (head === 0 && log.cycle(0) === 0) return false;
  return !log.endsInUnmountRecord(head);
}

class XfsLog {
  private readonly volume: Volume;
  private readonly start: number;
  /** number of 512-byte blocks */
  private readonly length: number;

  private constructor(volume: Volume, start: number, length: number) {
    this.volume = volume;
    this.start = start;
    this.length = length;
  }

  static of(volume: Volume, superblock: DataView): XfsLog | null {
    const blockBytes = superblock.getUint32(4, false);
    const groupBlocks = superblock.getUint32(84, false);
    const groupBits = superblock.getUint8(124);
    const first = combine(superblock.getUint32(48, false), superblock.getUint32(52, false));
    // a number of a block is the number of its group, shifted, and its place there
    const group = Math.floor(first / 2 ** groupBits);
    const start = (group * groupBlocks + (first - group * 2 ** groupBits)) * blockBytes;
    const bytes = superblock.getUint32(96, false) * blockBytes;
    if (!(first > 0 && bytes > 0 && Number.isSafeInteger(start) && start + bytes <= volume.size)) return null;
    return new XfsLog(volume, start, bytes / BLOCK_BYTES);
  }

  /** The round in which a block was written; null if it cannot be read. */
  cycle(index: number): number | null {
    const view = this.block(index);
    if (view === null) return null;
    const word = view.getUint32(0, false);
    return word === XLOG_HEADER_MAGIC ? view.getUint32(4, false) : word;
  }

  /**
   * The block that will be written next: the first one of the round before. After a clean unmount all writes are done, so rounds
   * change at one place only.
   */
  findHead(): number | null {
    const first = this.cycle(0);
    const last = this.cycle(this.length - 1);
    if (first === null || last === null) return null;
    if (first === last) return 0;
    let low = 0;
    let high = this.length - 1;
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      const cycle = this.cycle(middle);
      if (cycle === null) return null;
      if (cycle === first) low = middle;
      else high = middle;
    }
    return high;
  }

  /** Whether the last record before `head` has one operation, an unmount, and ends exactly there. */
  endsInUnmountRecord(head: number): boolean {
    for (let back = 1; back <= Math.min(MAX_RECORD_BLOCKS, this.length - 1); back++) {
      const record = (head - back + this.length) % this.length;
      const view = this.block(record);
      if (view === null) return false;
      if (view.getUint32(0, false) !== XLOG_HEADER_MAGIC) continue;
      const size = view.getUint32(320, false);
      const isLong = (view.getUint32(8, false) & XLOG_VERSION_2) !== 0 && size > XLOG_HEADER_CYCLE_SIZE;
      const headerBlocks = isLong ? divideUp(size, XLOG_HEADER_CYCLE_SIZE) : 1;
      const blocks = headerBlocks + divideUp(view.getUint32(12, false), BLOCK_BYTES);
      if (blocks !== back || view.getUint32(40, false) !== 1) return false;
      const operation = this.block((record + headerBlocks) % this.length);
      return operation !== null && (operation.getUint8(OPERATION_FLAGS_OFFSET) & XLOG_UNMOUNT_TRANS) !== 0;
    }
    return false;
  }

  private block(index: number): DataView | null {
    return this.volume.view(this.start + index * BLOCK_BYTES, BLOCK_BYTES);
  }
}
