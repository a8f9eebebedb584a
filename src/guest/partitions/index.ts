// Partition tables and what partitions contain: the door of the folder. Invariant: pure and synchronous; it reads the disk through a
// PartitionSource in bounded pieces, and whatever is written on the disk, the only exceptions are those of the source.

export { type Content, contentOf, useOfType } from './content/index.ts';
export type { ContentUse } from './content/kind.ts';
export { MAX_PARTITION_NUMBER, type Partition } from './entries.ts';
export type { ByteRange, PartitionSource } from './source.ts';
export { type PartitionTable, readPartitionTable } from './table.ts';
