// What all threads share of the tree: owner, mode and times of its nodes, and how many writable handles are open. Times are
// stable: they change when the guest writes or somebody sets them, never by being looked at.

import { randomInt } from 'node:crypto';
import type { VirtualDisk } from '../disk/index.ts';
import { createTruncationState, Truncation } from './truncation.ts';

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
/** 1 while nobody may open the disk for writing or change its attributes */
export const READ_ONLY = 1;
/** how often the skipped bytes of an O_TRUNC handle became zeros beneath pages that the kernel may hold */
export const GAPS_ZEROED = 2;
/** up to which of these the kernel has dropped such pages since */
export const GAPS_DROPPED = 3;
const WORDS = 4;

/** Permission bits to write. */
const WRITE_BITS = 0o222;

export const ROOT_NODE = 1;
export const DISK_NAME = 'disk.raw';

export interface SharedTree {
  /** the mountpoint is a regular file, and the root node is the disk itself */
  readonly rootIsFile: boolean;
  readonly umask: number;
  /** of the disk: a file handle of one mount (NFS) must not open the disk of another, mounted later in its place */
  readonly generation: number;
  readonly numbers: SharedArrayBuffer;
  readonly words: SharedArrayBuffer;
  /** see truncation.ts */
  readonly truncation: SharedArrayBuffer;
}

export interface TreeOptions {
  readonly rootIsFile: boolean;
  readonly uid: number;
  readonly gid: number;
  /** permission bits taken away from 0777 (directory) and 0666 (disk); absent: only the owner has access, 0700 and 0600 */
  readonly umask?: number | undefined;
  /** times of the nodes at the start, in ms since the epoch; default now, and for the disk those of the image */
  readonly timeMs?: number | undefined;
}

/** The tree's shared state: node 1 is the root; node 2 is the disk unless the root is. */
export function createTree(disk: Pick<VirtualDisk, 'modifiedMs' | 'readOnly'>, options: TreeOptions): SharedTree {
  const { rootIsFile, uid, gid } = options;
  const umask = options.umask ?? 0o077;
  const now = options.timeMs ?? Date.now();
  const changed = options.timeMs ?? disk.modifiedMs() ?? now;
  const directoryMode = S_IFDIR | ((disk.readOnly ? 0o555 : 0o777) & ~umask);
  const fileMode = S_IFREG | ((disk.readOnly ? 0o444 : 0o666) & ~umask);
  const tree: SharedTree = {
    rootIsFile,
    umask,
    generation: randomInt(1, 2 ** 32),
    numbers: new SharedArrayBuffer(NODE_NUMBERS * 3 * 8),
    words: new SharedArrayBuffer(WORDS * 4),
    truncation: createTruncationState(),
  };
  new Int32Array(tree.words)[READ_ONLY] = disk.readOnly ? 1 : 0;
  const numbers = new Float64Array(tree.numbers);
  for (const node of nodesOf(tree)) {
    const isDirectory = node === ROOT_NODE && !rootIsFile;
    const time = isDirectory ? now : changed;
    numbers.set([isDirectory ? directoryMode : fileMode, uid, gid, time, time, time], node * NODE_NUMBERS);
  }
  return tree;
}

/** Lets the disk be opened for writing from now on, or no longer; the permissions shown follow. */
export function setTreeReadOnly(tree: SharedTree, readOnly: boolean): void {
  Atomics.store(new Int32Array(tree.words), READ_ONLY, readOnly ? 1 : 0);
  const numbers = new Float64Array(tree.numbers);
  for (const node of nodesOf(tree)) {
    const at = node * NODE_NUMBERS + MODE;
    numbers[at] = readOnly ? numbers[at]! & ~WRITE_BITS : numbers[at]! | (WRITE_BITS & ~tree.umask);
  }
}

/** Handles that can write and are not released yet. */
export function writableHandles(tree: SharedTree): number {
  return Atomics.load(new Int32Array(tree.words), WRITABLE_HANDLES);
}

/**
 * Tells of zeros beneath pages that the kernel may hold, as long as the mount lasts: `drop` makes the kernel drop them, and may
 * fail, which leaves every later opening to do so. By one thread, which serves no requests.
 */
export async function dropStalePages(tree: SharedTree, drop: () => Promise<void>): Promise<void> {
  const words = new Int32Array(tree.words);
  for (;;) {
    const dropped = Atomics.load(words, GAPS_DROPPED);
    const wait = Atomics.waitAsync(words, GAPS_ZEROED, dropped);
    if (wait.async) await wait.value;
    const zeroed = Atomics.load(words, GAPS_ZEROED);
    await drop();
    Atomics.store(words, GAPS_DROPPED, zeroed);
  }
}

/** A thread that served the tree has ended, perhaps in the middle of something. @param thread its `threadId` */
export function abandonTree(tree: SharedTree, thread: number): void {
  new Truncation(tree.truncation).abandon(thread);
}

/** Node ids; the disk is the last one. */
export function nodesOf(tree: { readonly rootIsFile: boolean }): readonly number[] {
  return tree.rootIsFile ? [ROOT_NODE] : [ROOT_NODE, ROOT_NODE + 1];
}
