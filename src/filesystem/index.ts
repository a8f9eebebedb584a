// The filesystem layer as the commands see it.

export { DiskFilesystem } from './disk-filesystem.ts';
export { createTree, DISK_NAME, type SharedTree, type TreeOptions } from './tree-state.ts';
