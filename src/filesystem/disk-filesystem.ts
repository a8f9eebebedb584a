// The tree that a mount shows: disk.raw, partitions/, snapshots/ and status.json in a directory, or the disk or a partition as
// the mountpoint itself. Each request is passed to the file that its node is. Between two requests only what tree-state.ts shares is kept.

import { O_DIRECT, O_TRUNC, S_IFDIR, S_IFMT } from '../bytes/linux.ts';
import type { VirtualDisk } from '../disk/index.ts';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import type {
  AttributeChange,
  Attributes,
  DirectoryEntry,
  Filesystem,
  KernelPages,
  OpenedFile,
  Statfs,
} from '../fuse/filesystem.ts';
import { failure, type Refusal } from './failure.ts';
import { type Conflict, canWrite, HANDLE, type Handles, isTruncating, NO_PAGES } from './handles.ts';
import {
  DISK_NAME,
  DISK_NODE,
  FIXED_NODES,
  isPartitionNode,
  isSnapshotNode,
  PARTITIONS_NAME,
  PARTITIONS_NODE,
  partitionName,
  partitionNumber,
  ROOT_NODE,
  rootEntries,
  SNAPSHOTS_NODE,
  STATUS_NAME,
  STATUS_NODE,
} from './nodes.ts';
import { Partitions } from './partitions.ts';
import { RangeFile } from './range-file.ts';
import { RecordTable } from './records.ts';
import { SnapshotFile, SnapshotFiles } from './snapshot-files.ts';
import { TableWatch } from './table-watch.ts';
import { handlesOf, type SharedTree, TreeWords, truncationOf } from './tree-state.ts';

const O_ACCMODE = 3;
const O_RDONLY = 0;

const PERMISSION_BITS = 0o7777;
/** Limits of st_blksize: stdio reads that much at once, so at least a page, and no more than one request holds. */
const [SMALLEST_BUFFER, LARGEST_BUFFER] = [4096, 1024 * 1024];
/** How long the kernel may keep a name: for ever, or not at all. */
const [LASTING_ENTRY_SECONDS, NO_ENTRY_SECONDS] = [60, 0];

export class DiskFilesystem implements Filesystem {
  private disk: VirtualDisk;
  private readonly tree: SharedTree;
  private readonly records: RecordTable;
  private readonly words: TreeWords;
  private readonly pages: KernelPages;
  private readonly handles: Handles;
  private readonly table: TableWatch;
  private readonly partitions: Partitions;
  private readonly names: ReadonlyMap<string, number>;
  private readonly diskNode: number;
  private readonly noteRefusal: (refusal: Refusal) => void;
  private diskFile: RangeFile;
  /** the partitions that were used since the table was read last, by node */
  private readonly partitionFiles = new Map<number, RangeFile>();
  private readings = 0;
  /** null until somebody looks at one */
  private snapshotFiles: SnapshotFiles | null = null;

  /**
   * @param noteRefusal called when an opening is refused because another file with the same bytes is open
   * @param noteWarning called with what is damaged in the partition table, when it is read
   */
  constructor(
    disk: VirtualDisk,
    tree: SharedTree,
    noteRefusal: (refusal: Refusal) => void = () => undefined,
    noteWarning: (sentence: string) => void = () => undefined,
    pages: KernelPages = NO_PAGES,
  ) {
    this.disk = disk;
    this.tree = tree;
    this.noteRefusal = noteRefusal;
    this.records = new RecordTable(tree.records);
    this.words = new TreeWords(tree);
    this.pages = pages;
    this.handles = handlesOf(tree, pages);
    this.handles.addThread();
    this.table = new TableWatch(tree.table);
    this.diskNode = tree.rootIsFile ? ROOT_NODE : DISK_NODE;
    this.names = rootEntries(tree.shows);
    const { records, handles, table, words } = this;
    this.partitions = new Partitions({ records, handles, table, words, model: this.diskNode, noteWarning });
    this.diskFile = this.fileOf(this.diskNode);
  }

  /** Serves another disk from the next request on: the same image, opened anew. */
  takeOver(disk: VirtualDisk): void {
    this.disk = disk;
    this.table.noteEverything();
    this.partitionFiles.clear();
    this.snapshotFiles = null;
    this.diskFile = this.fileOf(this.diskNode);
  }

  lookup(parent: number, name: string): Attributes {
    this.assertDirectory(parent);
    if (name === '.') return this.getattr(parent);
    if (name === '..') return this.getattr(ROOT_NODE);
    if (parent === ROOT_NODE) {
      const node = this.names.get(name);
      if (node === undefined) throw failure(ERRNO.ENOENT, `there is no ${name} here; the disk is ${DISK_NAME}`);
      return this.getattr(node);
    }
    if (parent === SNAPSHOTS_NODE) return this.getattr(this.snapshots.find(name));
    const number = partitionNumber(name);
    const record = number === null ? undefined : this.partitions.find(this.disk, number);
    if (record === undefined) throw failure(ERRNO.ENOENT, `there is no ${PARTITIONS_NAME}/${name}`);
    return this.getattr(this.records.node(record));
  }

  getattr(node: number): Attributes {
    if (isSnapshotNode(node)) return this.snapshots.at(node).attributes(this.getattr(this.diskNode), this.tree.umask);
    const record = this.recordOf(node);
    const { atimeMs, ctimeMs, gid, mode, mtimeMs, uid } = this.records.attributes(record);
    const file = this.fileIn(node);
    const isDirectory = (mode & S_IFMT) === S_IFDIR;
    return {
      ino: node,
      generation: node === ROOT_NODE ? 0 : this.tree.generation,
      entrySeconds: isPartitionNode(node) ? NO_ENTRY_SECONDS : LASTING_ENTRY_SECONDS,
      size: file?.size() ?? 0,
      allocatedBytes: file?.occupiedBytes() ?? 0,
      atimeMs,
      mtimeMs,
      ctimeMs,
      mode,
      nlink: isDirectory ? 2 : 1,
      uid,
      gid,
      blockSize: Math.min(Math.max(file === null ? 0 : this.disk.clusterSize, SMALLEST_BUFFER), LARGEST_BUFFER),
    };
  }

  setattr(node: number, change: AttributeChange, handle = 0): Attributes {
    if (isSnapshotNode(node)) throw this.snapshots.at(node).readOnly();
    const record = this.recordOf(node);
    this.assertWritable();
    if (change.size !== undefined) this.fileAt(node).resize(change.size, handle);
    const attributes = this.records.attributes(record);
    if (change.mode !== undefined) {
      attributes.mode = (attributes.mode & ~PERMISSION_BITS) | (change.mode & PERMISSION_BITS);
    }
    if (change.uid !== undefined) attributes.uid = change.uid;
    if (change.gid !== undefined) attributes.gid = change.gid;
    if (change.atimeMs !== undefined) attributes.atimeMs = change.atimeMs;
    if (change.mtimeMs !== undefined) attributes.mtimeMs = change.mtimeMs;
    attributes.ctimeMs = Date.now();
    return this.getattr(node);
  }

  readdir(node: number): readonly DirectoryEntry[] {
    this.assertDirectory(node);
    if (node === ROOT_NODE)
      return Array.from(this.names, ([name, child]) => ({ name, attributes: this.getattr(child) }));
    if (node === SNAPSHOTS_NODE)
      return Array.from(this.snapshots.listed, ([name, child]) => ({ name, attributes: this.getattr(child) }));
    return this.partitions.list(this.disk).map((record) => ({
      name: partitionName(this.records.partition(record)),
      attributes: this.getattr(this.records.node(record)),
    }));
  }

  changeNames(node: number): never {
    this.assertDirectory(node);
    this.assertWritable();
    throw failure(ERRNO.EPERM, `the names here are fixed: ${DISK_NAME} is the disk of ${this.disk.path}`);
  }

  open(node: number, flags: number, pid = 0): OpenedFile | 'later' {
    const isReader = (flags & O_ACCMODE) === O_RDONLY;
    if (node === STATUS_NODE) return this.openStatus(isReader);
    const file = this.fileAt(node);
    if (this.disk.noteChanges()) this.noteForeignChanges();
    if (file instanceof SnapshotFile) {
      if (!isReader) throw file.readOnly();
      return { handle: HANDLE.read, pages: this.disk.isBesideWriter ? 'bypass' : 'keep' };
    }
    if (!isReader) this.assertWritable();
    // the size stays, like that of a block device: cp and a shell's > write over a disk and must not cut it to nothing
    const truncates = !isReader && (flags & O_TRUNC) !== 0;
    const kind = isReader ? HANDLE.read : truncates ? HANDLE.truncate : HANDLE.write;
    const claim = this.handles.open(file.record, kind, pid, (flags & O_DIRECT) !== 0);
    if ('isWriter' in claim) throw this.refusal(file, claim);
    if (truncates) file.truncation.open();
    if (!isReader) this.words.addWritableHandle();
    return claim;
  }

  /** Another program has written to the image: an opening after that sees it. */
  private noteForeignChanges(): void {
    this.table.noteEverything();
    this.handles.noteForeignChanges();
  }

  /** Its text is made by the main thread, for each handle. */
  private openStatus(isReader: boolean): 'later' {
    this.recordOf(STATUS_NODE);
    if (isReader) return 'later';
    throw failure(ERRNO.EPERM, `${STATUS_NAME} says how things are, and cannot be written`);
  }

  release(node: number, handle: number): 'later' | undefined {
    if (node === STATUS_NODE) return 'later';
    const file = this.fileAt(node);
    if (file instanceof SnapshotFile) return undefined;
    this.handles.release(file.record, handle);
    if (!canWrite(handle)) return undefined;
    if (isTruncating(handle)) file.truncation.release();
    if (this.words.removeWritableHandle()) this.disk.makeClean();
    else this.disk.flush();
    return undefined;
  }

  read(
    node: number,
    _handle: number,
    target: Uint8Array,
    targetOffset: number,
    length: number,
    offset: number,
  ): number | 'later' {
    if (node === STATUS_NODE) return 'later';
    return this.fileAt(node).read(target, targetOffset, length, offset);
  }

  write(
    node: number,
    handle: number,
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: number,
    isDirect = false,
  ): number {
    return this.fileAt(node).write(handle, source, sourceOffset, length, offset, isDirect);
  }

  flush(node: number, handle: number): void {
    if (canWrite(handle)) this.fsync(node);
  }

  fsync(_node: number): void {
    this.disk.flush();
  }

  fallocate(node: number, handle: number, mode: number, offset: number, length: number): void {
    this.fileAt(node).fallocate(handle, mode, offset, length);
  }

  lseek(node: number, _handle: number, offset: number, whence: number): number {
    return this.fileAt(node).seek(offset, whence);
  }

  statfs(_node: number): Statfs {
    const { disk } = this;
    const blockSize = disk.clusterSize;
    const blocks = Math.ceil(disk.size() / blockSize);
    const blocksFree = Math.max(0, blocks - Math.ceil(disk.occupiedBytes() / blockSize));
    return {
      blockSize,
      blocks,
      blocksFree,
      blocksAvailable: blocksFree,
      files: this.tree.rootIsFile ? 1 : 1 + this.names.size,
      filesFree: 0,
      nameMax: 255,
    };
  }

  access(node: number, mask: number, uid: number, gid: number): void {
    const { mode, uid: owner, gid: group } = this.getattr(node);
    if (uid === 0) return;
    const shift = uid === owner ? 6 : gid === group ? 3 : 0;
    if (((mode >> shift) & mask) !== mask) throw failure(ERRNO.EACCES, 'not permitted by the mode of the file');
  }

  getxattr(node: number, name: string): Uint8Array {
    const attributes = this.attributesOf(node);
    const value = Object.hasOwn(attributes, name) ? attributes[name] : undefined;
    if (value === undefined) throw failure(ERRNO.ENODATA, `no extended attribute ${name}`);
    return new TextEncoder().encode(value);
  }

  listxattr(node: number): readonly string[] {
    return Object.keys(this.attributesOf(node));
  }

  private attributesOf(node: number): Readonly<Record<string, string>> {
    const file = this.fileIn(node);
    if (file === null) {
      this.recordOf(node);
      return {};
    }
    const { path, format, clusterSize } = this.disk;
    const partition = file instanceof SnapshotFile ? 0 : this.records.partition(file.record);
    return {
      'user.imgfuse.image': path,
      'user.imgfuse.format': format,
      'user.imgfuse.cluster_size': String(clusterSize),
      ...(partition === 0 ? {} : { 'user.imgfuse.partition': String(partition) }),
      ...(file instanceof SnapshotFile ? { 'user.imgfuse.snapshot': file.id } : {}),
    };
  }

  private refusal(file: RangeFile, { record, isWriter, pid }: Conflict): ImgfuseError {
    const holderName = this.nameOf(record);
    this.noteRefusal({ name: file.name, holderName, holderWrites: isWriter, holder: pid });
    const sentence = `${file.name} shows the same bytes as ${holderName}, which is open${isWriter ? ' for writing' : ''}`;
    return new ImgfuseError('busy', sentence, { path: this.disk.path });
  }

  private nameOf(record: number): string {
    if (record === ROOT_NODE) return 'the mountpoint';
    const partition = this.records.partition(record);
    return partition === 0 ? DISK_NAME : `${PARTITIONS_NAME}/${partitionName(partition)}`;
  }

  /** The file with that record, for this thread and the present disk. */
  private fileOf(record: number): RangeFile {
    const { disk, handles, pages, records, words, table } = this;
    const [start, end] = [records.start(record), records.end(record)];
    return new RangeFile({
      ...{ disk, record, handles, pages, words, table, start },
      node: records.node(record),
      name: this.nameOf(record),
      length: end === Infinity ? null : end - start,
      attributes: records.attributes(record),
      truncation: truncationOf(this.tree, record),
    });
  }

  /** The file that shows bytes of the disk as that node. @throws ImgfuseError EISDIR, missing */
  private fileAt(node: number): RangeFile | SnapshotFile {
    return node === this.diskNode ? this.diskFile : (this.fileIn(node) ?? this.throwNoFile(node));
  }

  /** The same; null if the node shows no bytes of the disk. */
  private fileIn(node: number): RangeFile | SnapshotFile | null {
    if (node === this.diskNode) return this.diskFile;
    if (isSnapshotNode(node)) return this.snapshots.at(node);
    if (!isPartitionNode(node)) return null;
    if (this.readings !== this.table.readings) {
      this.readings = this.table.readings;
      this.partitionFiles.clear();
    }
    const known = this.partitionFiles.get(node);
    if (known !== undefined) return known;
    const file = this.fileOf(this.recordOf(node));
    this.partitionFiles.set(node, file);
    return file;
  }

  private get snapshots(): SnapshotFiles {
    this.snapshotFiles ??= new SnapshotFiles(this.disk);
    return this.snapshotFiles;
  }

  private throwNoFile(node: number): never {
    this.recordOf(node);
    if (node === STATUS_NODE) throw failure(ERRNO.EINVAL, `${STATUS_NAME} can only be read`);
    throw failure(ERRNO.EISDIR, 'this is a directory; the disk is in it');
  }

  /** @throws ImgfuseError missing */
  private recordOf(node: number): number {
    const isFixed = node < FIXED_NODES && this.records.node(node) === node;
    const record = isFixed ? node : this.partitions.recordOf(node);
    if (record === undefined) throw failure(ERRNO.ENOENT, `there is no node ${node}`);
    return record;
  }

  private assertWritable(): void {
    if (!this.words.isReadOnly) return;
    throw failure(ERRNO.EROFS, `${this.disk.path} is mounted read-only`);
  }

  private assertDirectory(node: number): void {
    if (isSnapshotNode(node)) this.snapshots.at(node);
    else this.recordOf(node);
    if (this.tree.rootIsFile) throw failure(ERRNO.ENOTDIR, 'the mountpoint is the disk itself');
    if (node !== ROOT_NODE && node !== PARTITIONS_NODE && node !== SNAPSHOTS_NODE)
      throw failure(ERRNO.ENOTDIR, 'this is a file, and no directory');
  }
}
