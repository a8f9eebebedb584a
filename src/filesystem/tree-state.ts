// What all threads share of the tree: owner, mode and times of its nodes, and how many writable handles are open. Times
// change when the guest writes or a user sets them, never when they are looked at.

import { randomInt } from 'node:crypto';
import { S_IFDIR, S_IFREG } from '../bytes/linux.ts';
import type { VirtualDisk } from '../disk/index.ts';
import { createTruncationState, Truncation } from './truncation.ts';

/** Float64 numbers of a node, then of the next one: SharedNode says what they are. */
const MODE = 0;
const UID = 1;
const GID = 2;
const ATIME_MS = 3;
const MTIME_MS = 4;
const CTIME_MS = 5;
const NODE_NUMBERS = 6;

/** Int32 words: TreeWords says what they are. */
const WRITABLE_HANDLES = 0;
const READ_ONLY = 1;
const GAPS_ZEROED = 2;
const GAPS_DROPPED = 3;
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
  new TreeWords(tree).setReadOnly(disk.readOnly);
  for (const id of nodesOf(tree)) {
    const node = new SharedNode(tree, id);
    const isDirectory = id === ROOT_NODE && !rootIsFile;
    const time = isDirectory ? now : changed;
    node.mode = isDirectory ? directoryMode : fileMode;
    node.uid = uid;
    node.gid = gid;
    node.atimeMs = time;
    node.mtimeMs = time;
    node.ctimeMs = time;
  }
  return tree;
}

/** Lets the disk be opened for writing from now on, or no longer; the permissions shown follow. */
export function setTreeReadOnly(tree: SharedTree, readOnly: boolean): void {
  new TreeWords(tree).setReadOnly(readOnly);
  for (const id of nodesOf(tree)) {
    const node = new SharedNode(tree, id);
    node.mode = readOnly ? node.mode & ~WRITE_BITS : node.mode | (WRITE_BITS & ~tree.umask);
  }
}

/** Handles that can write and are not released yet. */
export function writableHandles(tree: SharedTree): number {
  return new TreeWords(tree).writableHandles;
}

/**
 * As long as the mount lasts: calls `drop`, which makes the kernel drop its pages, whenever bytes beneath them became zeros. If
 * `drop` fails, later openings drop them. Called by one thread, which serves no requests.
 */
export async function dropStalePages(tree: SharedTree, drop: () => Promise<void>): Promise<void> {
  const words = new TreeWords(tree);
  for (;;) {
    const zeroed = await words.stalePages();
    await drop();
    words.noteDropped(zeroed);
  }
}

/** A thread that served the tree has died, perhaps in the middle of a request. @param thread its `threadId` */
export function abandonTree(tree: SharedTree, thread: number): void {
  new Truncation(tree.truncation).abandon(thread);
}

/** Node ids; the disk is the last one. */
export function nodesOf(tree: { readonly rootIsFile: boolean }): readonly number[] {
  return tree.rootIsFile ? [ROOT_NODE] : [ROOT_NODE, ROOT_NODE + 1];
}

/**
 * Owner, mode and times of one node. There is no lock: each is one aligned 64-bit number, and if two requests change it at the
 * same time either may win.
 */
export class SharedNode {
  private readonly values: Float64Array;

  constructor({ numbers }: Pick<SharedTree, 'numbers'>, id: number) {
    this.values = new Float64Array(numbers, id * NODE_NUMBERS * Float64Array.BYTES_PER_ELEMENT, NODE_NUMBERS);
  }

  /** File type and permission bits. */
  get mode(): number {
    return this.values[MODE]!;
  }

  set mode(mode: number) {
    this.values[MODE] = mode;
  }

  get uid(): number {
    return this.values[UID]!;
  }

  set uid(uid: number) {
    this.values[UID] = uid;
  }

  get gid(): number {
    return this.values[GID]!;
  }

  set gid(gid: number) {
    this.values[GID] = gid;
  }

  /** ms since the epoch, like the other two */
  get atimeMs(): number {
    return this.values[ATIME_MS]!;
  }

  set atimeMs(time: number) {
    this.values[ATIME_MS] = time;
  }

  get mtimeMs(): number {
    return this.values[MTIME_MS]!;
  }

  set mtimeMs(time: number) {
    this.values[MTIME_MS] = time;
  }

  get ctimeMs(): number {
    return this.values[CTIME_MS]!;
  }

  set ctimeMs(time: number) {
    this.values[CTIME_MS] = time;
  }
}

/** The words of the tree. There is no lock: each is read and changed by itself, in one atomic step. */
export class TreeWords {
  private readonly words: Int32Array;

  constructor({ words }: Pick<SharedTree, 'words'>) {
    this.words = new Int32Array(words);
  }

  /** Handles that can write and are not released yet. */
  get writableHandles(): number {
    return Atomics.load(this.words, WRITABLE_HANDLES);
  }

  addWritableHandle(): void {
    Atomics.add(this.words, WRITABLE_HANDLES, 1);
  }

  /** @returns whether it was the last one */
  removeWritableHandle(): boolean {
    return Atomics.sub(this.words, WRITABLE_HANDLES, 1) === 1;
  }

  /** The disk may not be opened for writing, and its attributes may not change. */
  get isReadOnly(): boolean {
    return Atomics.load(this.words, READ_ONLY) === 1;
  }

  setReadOnly(readOnly: boolean): void {
    Atomics.store(this.words, READ_ONLY, readOnly ? 1 : 0);
  }

  /** Bytes that an O_TRUNC handle skipped became zeros, and the kernel may still hold older pages of them. */
  get hasStalePages(): boolean {
    return Atomics.load(this.words, GAPS_ZEROED) !== Atomics.load(this.words, GAPS_DROPPED);
  }

  noteGapsZeroed(): void {
    Atomics.add(this.words, GAPS_ZEROED, 1);
    Atomics.notify(this.words, GAPS_ZEROED);
  }

  /** Waits until there are stale pages. @returns the value for noteDropped() after the kernel has dropped them */
  async stalePages(): Promise<number> {
    const wait = Atomics.waitAsync(this.words, GAPS_ZEROED, Atomics.load(this.words, GAPS_DROPPED));
    if (wait.async) await wait.value;
    return Atomics.load(this.words, GAPS_ZEROED);
  }

  noteDropped(zeroed: number): void {
    Atomics.store(this.words, GAPS_DROPPED, zeroed);
  }
}
