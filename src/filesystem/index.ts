// The filesystem layer as the commands see it.

export { DiskFilesystem } from './disk-filesystem.ts';
export {
  abandonTree,
  createTree,
  DISK_NAME,
  dropStalePages,
  nodesOf,
  type SharedTree,
  setTreeReadOnly,
  type TreeOptions,
  writableHandles,
} from './tree-state.ts';
