// What all threads share of the tree: owner, mode and times of its nodes, and how many writable handles are open. Times are
// stable: they change when the guest writes or somebody sets them, never by being looked at.

import type { VirtualDisk } from '../disk/index.ts';

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;

/** Numbers of a node, then of the next one. */
export const MODE = 0;
export const UID = 1;
export const GID = 2;
export const ATIME_MS = 3;
export const MTIME_MS = 4;
export const CTIME_MS = 5;
export const NODE_NUMBERS = 6;

/** Words. */
export const WRITABLE_HANDLES = 0;

export const ROOT_NODE = 1;
export const DISK_NAME = 'disk.raw';

export interface SharedTree {
  /** the mountpoint is a regular file, and the root node is the disk itself */
  readonly rootIsFile: boolean;
  readonly numbers: SharedArrayBuffer;
  readonly words: SharedArrayBuffer;
}

export interface TreeOptions {
  readonly rootIsFile: boolean;
  readonly uid: number;
  readonly gid: number;
  /** permission bits taken away from 0777 (directory) and 0666 (disk); absent: only the owner has access, 0700 and 0600 */
  readonly umask?: number | undefined;
  /** times of the nodes at the start, in ms since the epoch; default now */
  readonly timeMs?: number | undefined;
}

/** The tree's shared state: node 1 is the root; node 2 is the disk unless the root is. */
export function createTree(disk: VirtualDisk, options: TreeOptions): SharedTree {
  const { rootIsFile, uid, gid } = options;
  const umask = options.umask ?? 0o077;
  const now = options.timeMs ?? Date.now();
  const directoryMode = S_IFDIR | ((disk.readOnly ? 0o555 : 0o777) & ~umask);
  const fileMode = S_IFREG | ((disk.readOnly ? 0o444 : 0o666) & ~umask);
  const tree: SharedTree = {
    rootIsFile,
    numbers: new SharedArrayBuffer(NODE_NUMBERS * 3 * 8),
    words: new SharedArrayBuffer(4),
  };
  const numbers = new Float64Array(tree.numbers);
  for (const node of rootIsFile ? [ROOT_NODE] : [ROOT_NODE, ROOT_NODE + 1]) {
    const mode = node === ROOT_NODE && !rootIsFile ? directoryMode : fileMode;
    numbers.set([mode, uid, gid, now, now, now], node * NODE_NUMBERS);
  }
  return tree;
}
