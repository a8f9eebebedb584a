// What all threads share of the tree: which nodes there are, a record of each (records.ts), and how many writable handles are open.
// Times change when the guest writes or a user sets them, never when they are looked at.

import { randomInt } from 'node:crypto';
import { S_IFDIR, S_IFREG } from '../bytes/linux.ts';
import type { VirtualDisk } from '../disk/index.ts';
import type { KernelPages } from '../fuse/filesystem.ts';
import { createHandleWords, Handles, NO_PAGES } from './handles.ts';
import { DISK_NODE, FIRST_PARTITION_NODE, ROOT_NODE, rootEntries, type Shown, STATUS_NODE } from './nodes.ts';
import { createOpenFiles, OpenFiles } from './open-files.ts';
import { createRecords, PARTITION_RECORDS, RecordTable, type SharedRecords } from './records.ts';
import { createTableWatchState, TableWatch } from './table-watch.ts';
import {
  createTruncationStates,
  DISK_EXTENTS,
  PARTITION_EXTENTS,
  Truncation,
  type TruncationStates,
} from './truncation.ts';

/** Int32 words: TreeWords says what they are. */
const WRITABLE_HANDLES = 0;
const READ_ONLY = 1;
const STALE_NOTED = 2;
const STALE_DROPPED = 3;
const PARTITION_NODES = 4;
const WORDS = 5;

/** Permission bits to write. */
const WRITE_BITS = 0o222;

export interface SharedTree {
  /** the mountpoint is a regular file, and the root node is the disk itself, or one partition of it */
  readonly rootIsFile: boolean;
  readonly shows: readonly Shown[];
  readonly umask: number;
  /** of all nodes but the root: a file handle of one mount (NFS) must not open the disk of another, mounted later in its place */
  readonly generation: number;
  readonly records: SharedRecords;
  readonly words: SharedArrayBuffer;
  /** see handles.ts and open-files.ts */
  readonly handles: SharedArrayBuffer;
  readonly openFiles: SharedArrayBuffer;
  /** see table-watch.ts */
  readonly table: SharedArrayBuffer;
  /** see truncation.ts: of the disk, and of each partition record */
  readonly truncation: TruncationStates;
  readonly partitionTruncations: TruncationStates;
}

export interface TreeOptions {
  readonly rootIsFile: boolean;
  /** the bytes of the disk that the root shows, if it is a file and shows not all of them */
  readonly part?: { readonly start: number; readonly size: number } | undefined;
  /** what a directory shows beside the disk; default: nothing */
  readonly shows?: readonly Shown[] | undefined;
  readonly uid: number;
  readonly gid: number;
  /** permission bits taken away from 0777 (directory) and 0666 (disk); absent: only the owner has access, 0700 and 0600 */
  readonly umask?: number | undefined;
  /** times of the nodes at the start, in ms since the epoch; default now, and for the disk those of the image */
  readonly timeMs?: number | undefined;
}

/** The tree's shared state, with the nodes that every such tree has: partitions are added when somebody looks. */
export function createTree(disk: Pick<VirtualDisk, 'modifiedMs' | 'readOnly'>, options: TreeOptions): SharedTree {
  const { rootIsFile, part, uid, gid } = options;
  const umask = options.umask ?? 0o077;
  const now = options.timeMs ?? Date.now();
  const changed = options.timeMs ?? disk.modifiedMs() ?? now;
  const directoryMode = S_IFDIR | ((disk.readOnly ? 0o555 : 0o777) & ~umask);
  const fileMode = S_IFREG | ((disk.readOnly ? 0o444 : 0o666) & ~umask);
  const tree: SharedTree = {
    rootIsFile,
    shows: rootIsFile ? [] : (options.shows ?? []),
    umask,
    generation: randomInt(1, 2 ** 32),
    records: createRecords(),
    words: new SharedArrayBuffer(WORDS * 4),
    handles: createHandleWords(),
    openFiles: createOpenFiles(),
    table: createTableWatchState(),
    truncation: createTruncationStates(1, DISK_EXTENTS),
    partitionTruncations: createTruncationStates(PARTITION_RECORDS, PARTITION_EXTENTS),
  };
  new TreeWords(tree).setReadOnly(disk.readOnly);
  const records = new RecordTable(tree.records);
  const add = (node: number, mode: number, time: number): void => {
    records.assign(node, node);
    const attributes = records.attributes(node);
    Object.assign(attributes, { mode, uid, gid, atimeMs: time, mtimeMs: time, ctimeMs: time });
  };
  const diskNode = rootIsFile ? ROOT_NODE : DISK_NODE;
  if (!rootIsFile) add(ROOT_NODE, directoryMode, now);
  add(diskNode, fileMode, changed);
  records.assign(diskNode, diskNode, part?.start ?? 0, part === undefined ? Infinity : part.start + part.size);
  for (const node of rootEntries(tree.shows).values()) {
    if (node !== DISK_NODE) add(node, node === STATUS_NODE ? S_IFREG | (0o444 & ~umask) : directoryMode, now);
  }
  return tree;
}

/** The live nodes, and their records. */
export function* recordsOf(tree: SharedTree): Generator<{ readonly record: number; readonly node: number }, void> {
  const records = new RecordTable(tree.records);
  for (const record of records.all()) {
    const node = records.node(record);
    if (node !== 0) yield { record, node };
  }
}

/** The ids of the live nodes. */
export function nodesOf(tree: SharedTree): readonly number[] {
  return [...recordsOf(tree)].map(({ node }) => node);
}

/** Lets the disk be opened for writing from now on, or no longer; the permissions shown follow. */
export function setTreeReadOnly(tree: SharedTree, readOnly: boolean): void {
  new TreeWords(tree).setReadOnly(readOnly);
  const records = new RecordTable(tree.records);
  for (const { record, node } of recordsOf(tree)) {
    const attributes = records.attributes(record);
    if (node === STATUS_NODE) continue;
    attributes.mode = readOnly ? attributes.mode & ~WRITE_BITS : attributes.mode | (WRITE_BITS & ~tree.umask);
  }
}

/** Handles that can write and are not released yet. */
export function writableHandles(tree: SharedTree): number {
  return new TreeWords(tree).writableHandles;
}

/**
 * As long as the mount lasts: calls `drop`, which makes the kernel drop the pages of a node, whenever bytes have changed that
 * somebody may have mapped under another name. Called by one thread, which serves no requests.
 */
export async function dropStalePages(tree: SharedTree, drop: (node: number) => Promise<void>): Promise<void> {
  const words = new TreeWords(tree);
  const handles = handlesOf(tree);
  for (;;) {
    const noted = await words.stalePages();
    await handles.dropBeside(drop);
    words.noteDropped(noted);
  }
}

/** A thread that served the tree has died, perhaps in the middle of a request. @param thread its `threadId` */
export function abandonTree(tree: SharedTree, thread: number): void {
  handlesOf(tree).abandon(thread);
  new TableWatch(tree.table).abandon(thread);
  for (const record of new RecordTable(tree.records).all()) truncationOf(tree, record).abandon(thread);
}

/** @returns an object for this thread, over the same state */
export function handlesOf(tree: SharedTree, pages: KernelPages = NO_PAGES): Handles {
  const { handles, records, openFiles } = tree;
  return new Handles(handles, new RecordTable(records), new OpenFiles(openFiles), pages);
}

/** The same, for the file that has that record. */
export function truncationOf(tree: SharedTree, record: number): Truncation {
  const index = RecordTable.partitionIndex(record);
  return index === null ? new Truncation(tree.truncation) : new Truncation(tree.partitionTruncations, index);
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

  /** An id that no partition has had. */
  newPartitionNode(): number {
    return FIRST_PARTITION_NODE + Atomics.add(this.words, PARTITION_NODES, 1);
  }

  /** Bytes have changed under pages that the kernel may still hold, because somebody has mapped them under another name. */
  noteStalePages(): void {
    Atomics.add(this.words, STALE_NOTED, 1);
    Atomics.notify(this.words, STALE_NOTED);
  }

  /** Waits until there are stale pages. @returns the value for noteDropped() after the kernel has dropped them */
  async stalePages(): Promise<number> {
    const wait = Atomics.waitAsync(this.words, STALE_NOTED, Atomics.load(this.words, STALE_DROPPED));
    if (wait.async) await wait.value;
    return Atomics.load(this.words, STALE_NOTED);
  }

  noteDropped(noted: number): void {
    Atomics.store(this.words, STALE_DROPPED, noted);
  }
}
