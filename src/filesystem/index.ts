// The filesystem layer as the commands see it.

export { DiskFilesystem } from './disk-filesystem.ts';
export type { Refusal } from './failure.ts';
export { DISK_NAME, PARTITIONS_NAME, type Shown, STATUS_NAME, STATUS_NODE } from './nodes.ts';
export { findPartition, showsTable, sourceOf } from './partitions.ts';
export { nameSnapshots } from './snapshot-names.ts';
export {
  abandonTree,
  createTree,
  dropStalePages,
  nodesOf,
  type SharedTree,
  setTreeReadOnly,
  type TreeOptions,
  writableHandles,
} from './tree-state.ts';
