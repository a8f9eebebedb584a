// The log that QEMU's blklogwrites driver keeps of an image file (the format of the kernel's dm-log-writes): a superblock of
// one sector, then for each operation one sector that describes it and its data. Anything unknown in it is an error.
//
//   superblock: magic u64, version u64, number of entries u64, sector size u32; little-endian
//   entry:      sector u64, number of sectors u64, flags u64, length of other data u64

import type { RecordedOperation } from './wrapping-files.ts';

const WRITE_LOG_MAGIC = 0x6a736677736872n;
const WRITE_LOG_VERSION = 1n;
const LOG_FLUSH_FLAG = 1;
const LOG_DISCARD_FLAG = 4;

export interface WriteLog {
  readonly operations: RecordedOperation[];
  /** how long the log was when it had each operation */
  readonly ends: readonly number[];
}

/** @param log of an image file that is closed */
export function parseWriteLog(log: Buffer): WriteLog {
  const [magic, version] = [log.readBigUInt64LE(0), log.readBigUInt64LE(8)];
  if (magic !== WRITE_LOG_MAGIC || version !== WRITE_LOG_VERSION) {
    throw new Error(`not a log of blklogwrites: magic 0x${magic.toString(16)}, version ${version}`);
  }
  const entries = field(log, 16);
  const sectorSize = log.readUInt32LE(24);
  const operations: RecordedOperation[] = [];
  const ends: number[] = [];
  let at = sectorSize;
  for (let entry = 0; entry < entries; entry++) {
    if (at + sectorSize > log.length) throw new Error(`entry ${entry} begins at ${at}, the log ends at ${log.length}`);
    const [sector, count, flags, other] = [
      field(log, at),
      field(log, at + 8),
      field(log, at + 16),
      field(log, at + 24),
    ];
    if ((flags & ~(LOG_FLUSH_FLAG | LOG_DISCARD_FLAG)) !== 0 || other !== 0) {
      throw new Error(`entry ${entry} of the log, at offset ${at}: flags ${flags} and ${other} bytes of other data`);
    }
    const discards = (flags & LOG_DISCARD_FLAG) !== 0;
    const [offset, length] = [sector * sectorSize, count * sectorSize];
    const dataAt = at + sectorSize;
    at = dataAt + (discards ? 0 : length);
    if (at > log.length) throw new Error(`entry ${entry} ends at ${at}, the log ends at ${log.length}`);
    // of an entry that has both, the flush comes first
    if ((flags & LOG_FLUSH_FLAG) !== 0) operations.push({ operation: 'sync', offset: 0, length: 0, file: 0 });
    if (discards) operations.push({ operation: 'punch-hole', offset, length, file: 0 });
    else if (length > 0) {
      operations.push({ operation: 'write', offset, length, data: log.subarray(dataAt, at), file: 0 });
    }
    while (ends.length < operations.length) ends.push(at);
  }
  if (at !== log.length) throw new Error(`${entries} entries end at ${at}, the log ends at ${log.length}`);
  return { operations, ends };
}

function field(log: Buffer, at: number): number {
  const value = Number(log.readBigUInt64LE(at));
  if (!Number.isSafeInteger(value)) throw new Error(`the log has ${value} at offset ${at}`);
  return value;
}
