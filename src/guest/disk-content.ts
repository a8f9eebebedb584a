// Where the file systems of a mounted disk are: its partitions and what each of them contains, read from the raw file.

import { hostOffset } from '../bytes/offsets.ts';
import { readPadded } from '../host/host-file.ts';
import { PosixHostFile } from '../host/posix-file.ts';
import type { GuestPartition } from './choose-partition.ts';
import { contentOf, type PartitionSource, readPartitionTable } from './partitions/index.ts';

/** The types of partitions that the firmware of a machine starts the system from, of GPT and MBR. */
const FIRMWARE_TYPES = ['c12a7328-f81f-11d2-ba4b-00a0c93ec93b', '0xef'];

/**
 * The partitions of a disk; the whole disk if it has no table, or beside them if what is on it does not lie in one of them: a CD
 * image has its file system before a table that only firmware reads.
 * @param note told what is damaged
 * @throws ImgfuseError if the disk cannot be read
 */
export function readGuestPartitions(raw: string, note: (sentence: string) => void): GuestPartition[] {
  const file = PosixHostFile.open(raw, true);
  try {
    const source: PartitionSource = {
      size: file.size(),
      read: (target, offset) => readPadded(file, target, 0, target.length, hostOffset(offset)),
    };
    const table = readPartitionTable(source);
    for (const warning of table.warnings) note(warning);
    if (table.scheme === null) return [wholeDisk(source)];
    const partitions = table.partitions.map(({ number, start, size, type, typeName, name }) => ({
      number,
      start,
      size,
      use: [typeName ?? type, ...(name === null || name === '' ? [] : [`"${name}"`])].join(' '),
      isFirmware: FIRMWARE_TYPES.includes(type),
      content: contentOf(source, start, size),
    }));
    const whole = wholeDisk(source);
    const isEmpty = partitions.every(({ content, isFirmware }) => content === null || isFirmware);
    return isEmpty && whole.content !== null ? [whole, ...partitions] : partitions;
  } finally {
    file.close();
  }
}

function wholeDisk(source: PartitionSource): GuestPartition {
  const { size } = source;
  return { number: null, start: 0, size, use: 'whole disk', isFirmware: false, content: contentOf(source, 0, size) };
}
