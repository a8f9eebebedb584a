// The node ids of the tree, and which names stand in its root. An id means the same thing as long as the mount lasts: a partition
// that begins or ends elsewhere than before is another node, and ids of partitions are given out once.

export const ROOT_NODE = 1;
/** The whole disk, unless the root is. */
export const DISK_NODE = 2;
export const PARTITIONS_NODE = 3;
export const STATUS_NODE = 4;
export const SNAPSHOTS_NODE = 5;
/** Ids below this one have a record of their own in the shared tree. */
export const FIXED_NODES = 8;
/** The first id of a partition; the others follow, one by one. libfuse 2 shows the lower 32 bits of an id as the inode. */
export const FIRST_PARTITION_NODE = 2 ** 20;
/** The ids of snapshots begin here, and are as many. */
export const FIRST_SNAPSHOT_NODE = 2 ** 48;
export const SNAPSHOT_NODES = 2 ** 48;

export const DISK_NAME = 'disk.raw';
export const PARTITIONS_NAME = 'partitions';
export const SNAPSHOTS_NAME = 'snapshots';
export const STATUS_NAME = 'status.json';

/** What a tree shows in its root beside the disk. */
export type Shown = 'partitions' | 'snapshots' | 'status';

const SHOWN_NODES: Readonly<Record<Shown, readonly [name: string, node: number]>> = {
  partitions: [PARTITIONS_NAME, PARTITIONS_NODE],
  snapshots: [SNAPSHOTS_NAME, SNAPSHOTS_NODE],
  status: [STATUS_NAME, STATUS_NODE],
};

/** The names in the root, and their nodes, in the order in which they are listed. */
export function rootEntries(shows: readonly Shown[]): ReadonlyMap<string, number> {
  return new Map([[DISK_NAME, DISK_NODE], ...shows.map((each) => SHOWN_NODES[each])]);
}

/** "7.raw" */
export function partitionName(number: number): string {
  return `${number}.raw`;
}

/** The number in the name of a partition, written as partitionName() writes it; null for every other name. */
export function partitionNumber(name: string): number | null {
  const digits = /^([1-9]\d{0,9})\.raw$/.exec(name)?.[1];
  return digits === undefined ? null : Number(digits);
}

export function isPartitionNode(node: number): boolean {
  return node >= FIRST_PARTITION_NODE && node < FIRST_SNAPSHOT_NODE;
}

export function isSnapshotNode(node: number): boolean {
  return node >= FIRST_SNAPSHOT_NODE;
}
