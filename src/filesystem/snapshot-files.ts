// The files of snapshots/: the internal snapshots of the image, each read-only. Their content never changes, so the kernel may keep
// its pages, and nothing that is written to the disk concerns them.
// Invariant: a node id is made of what its snapshot is, so that it means the same one in every thread, and also after the image was
// opened anew.

import { createHash } from 'node:crypto';
import { S_IFREG } from '../bytes/linux.ts';
import { guestOffset } from '../bytes/offsets.ts';
import type { ReadableSnapshot, SnapshotDisk, VirtualDisk } from '../disk/index.ts';
import { ERRNO, type ImgfuseError } from '../errors/index.ts';
import type { Attributes } from '../fuse/filesystem.ts';
import { failure } from './failure.ts';
import { FIRST_SNAPSHOT_NODE, SNAPSHOT_NODES, SNAPSHOTS_NAME } from './nodes.ts';
import { seekIn } from './seek.ts';
import { nameSnapshots } from './snapshot-names.ts';

const MODE = 0o444;
/** Snapshots that a thread keeps open. */
const KEPT = 64;

export class SnapshotFiles {
  /** the node of each listed name, in the order of the image */
  readonly listed: ReadonlyMap<string, number>;
  private readonly disk: VirtualDisk;
  /** the same for every name that is found */
  private readonly found: ReadonlyMap<string, number>;
  private readonly positions = new Map<number, number>();
  private readonly names = new Map<number, string>();
  private readonly files = new Map<number, SnapshotFile>();

  constructor(disk: VirtualDisk) {
    this.disk = disk;
    const snapshots = disk.snapshots();
    const { listed, found } = nameSnapshots(snapshots);
    const nodes = new Map<number, number>();
    for (const position of new Set([...listed.values(), ...found.values()])) {
      const node = nodeOf(snapshots[position]!, this.positions);
      nodes.set(position, node);
      this.positions.set(node, position);
    }
    const withNodes = (names: ReadonlyMap<string, number>): Map<string, number> =>
      new Map([...names].map(([name, position]) => [name, nodes.get(position)!]));
    this.listed = withNodes(listed);
    this.found = withNodes(found);
    for (const [name, node] of [...this.found, ...this.listed]) this.names.set(node, name);
  }

  /** The node of a name in the directory. @throws ImgfuseError missing */
  find(name: string): number {
    const node = this.found.get(name);
    if (node === undefined) throw failure(ERRNO.ENOENT, `there is no ${SNAPSHOTS_NAME}/${name}`);
    return node;
  }

  /** @throws ImgfuseError missing */
  at(node: number): SnapshotFile {
    const known = this.files.get(node);
    if (known !== undefined) return known;
    const position = this.positions.get(node);
    if (position === undefined) throw failure(ERRNO.ENOENT, `there is no node ${node}`);
    const [oldest] = this.files.keys();
    if (this.files.size === KEPT) this.files.delete(oldest!);
    const name = `${SNAPSHOTS_NAME}/${this.names.get(node)}`;
    const file = new SnapshotFile(node, name, this.disk.openSnapshot(position), this.disk.snapshots()[position]!);
    this.files.set(node, file);
    return file;
  }
}

/** 48 bits of a hash; the next number that is free if two snapshots have the same. */
function nodeOf(
  { id, name, dateSeconds, dateNanoseconds, virtualSize }: ReadableSnapshot,
  taken: ReadonlyMap<number, number>,
): number {
  const hash = createHash('sha256').update(JSON.stringify([id, name, dateSeconds, dateNanoseconds, virtualSize]));
  let offset = hash.digest().readUIntBE(0, 6);
  while (taken.has(FIRST_SNAPSHOT_NODE + offset)) offset = (offset + 1) % SNAPSHOT_NODES;
  return FIRST_SNAPSHOT_NODE + offset;
}

/** The file of one snapshot. */
export class SnapshotFile {
  /** as the user sees it: snapshots/before.raw */
  readonly name: string;
  readonly id: string;
  private readonly node: number;
  /** when the snapshot was taken, in ms since the epoch */
  private readonly timeMs: number;
  private readonly snapshot: SnapshotDisk;

  constructor(
    node: number,
    name: string,
    snapshot: SnapshotDisk,
    { dateSeconds, dateNanoseconds, id }: ReadableSnapshot,
  ) {
    this.node = node;
    this.name = name;
    this.timeMs = dateSeconds * 1000 + dateNanoseconds / 1e6;
    this.id = id;
    this.snapshot = snapshot;
  }

  size(): number {
    return this.snapshot.size();
  }

  /** Those of the disk, but for what a snapshot has of its own. */
  attributes(ofDisk: Attributes, umask: number): Attributes {
    const { node, timeMs } = this;
    const times = { atimeMs: timeMs, mtimeMs: timeMs, ctimeMs: timeMs };
    const mode = S_IFREG | (MODE & ~umask);
    return { ...ofDisk, ...times, mode, ino: node, size: this.size(), allocatedBytes: this.occupiedBytes() };
  }

  /** An upper bound of the bytes that may be data; 0 only if all of them read as zeros. */
  occupiedBytes(): number {
    return this.snapshot.occupiedBytes();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: number): number {
    return this.snapshot.read(target, targetOffset, length, guestOffset(offset));
  }

  seek(offset: number, whence: number): number {
    return seekIn(this, offset, whence);
  }

  /** As SoughtFile has it. */
  find(offset: number, wantsData: boolean): number {
    return this.snapshot.seek(offset, wantsData);
  }

  write(): never {
    throw this.readOnly();
  }

  resize(): never {
    throw this.readOnly();
  }

  fallocate(): never {
    throw this.readOnly();
  }

  /** It can never be written: mount(8) and losetup may fall back to read-only. */
  readOnly(): ImgfuseError {
    return failure(ERRNO.EROFS, `${this.name} is a snapshot, which keeps its content`);
  }
}
