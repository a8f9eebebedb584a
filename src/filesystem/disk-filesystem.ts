// The tree that a mount shows: disk.raw in a directory, or the disk as the mountpoint itself. Every request for the disk
// becomes a request to the VirtualDisk. Between two requests only what tree-state.ts shares is kept.

import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  O_TRUNC,
  SEEK_DATA,
  SEEK_HOLE,
} from '../bytes/linux.ts';
import { guestOffset } from '../bytes/offsets.ts';
import type { VirtualDisk } from '../disk/index.ts';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import type { AttributeChange, Attributes, DirectoryEntry, Filesystem, Statfs } from '../fuse/filesystem.ts';
import { DISK_NAME, ROOT_NODE, SharedNode, type SharedTree, TreeWords } from './tree-state.ts';
import { Truncation } from './truncation.ts';

const O_ACCMODE = 3;
const O_RDONLY = 0;
const READ_HANDLE = 1;
const WRITE_HANDLE = 2;
/** opened with O_TRUNC */
const TRUNCATING_HANDLE = 3;

const PERMISSION_BITS = 0o7777;
/** Limits of st_blksize: stdio reads that much at once, so at least a page, and no more than one request holds. */
const [SMALLEST_BUFFER, LARGEST_BUFFER] = [4096, 1024 * 1024];
/** A range operation that covers gigabytes is passed to the disk in steps of this size. */
const RANGE_STEP = 1024 * 1024 * 1024;

export class DiskFilesystem implements Filesystem {
  private disk: VirtualDisk;
  private readonly tree: SharedTree;
  private readonly root: SharedNode;
  private readonly diskFile: SharedNode;
  private readonly words: TreeWords;
  private readonly diskNode: number;
  private readonly truncation: Truncation;
  private readonly zeroGap = (start: number, length: number): void => this.disk.discard(start, length);

  constructor(disk: VirtualDisk, tree: SharedTree) {
    this.disk = disk;
    this.tree = tree;
    this.words = new TreeWords(tree);
    this.truncation = new Truncation(tree.truncation);
    this.diskNode = tree.rootIsFile ? ROOT_NODE : ROOT_NODE + 1;
    this.root = new SharedNode(tree, ROOT_NODE);
    this.diskFile = tree.rootIsFile ? this.root : new SharedNode(tree, this.diskNode);
  }

  /** Serves another disk from the next request on: the same image, opened anew. */
  takeOver(disk: VirtualDisk): void {
    this.disk = disk;
  }

  lookup(parent: number, name: string): Attributes {
    this.assertDirectory(parent);
    if (name === '.' || name === '..') return this.getattr(ROOT_NODE);
    if (name !== DISK_NAME) throw failure(ERRNO.ENOENT, `there is no ${name} here; the disk is ${DISK_NAME}`);
    return this.getattr(this.diskNode);
  }

  getattr(node: number): Attributes {
    this.assertNode(node);
    const { disk } = this;
    const isDisk = node === this.diskNode;
    const { atimeMs, ctimeMs, gid, mode, mtimeMs, uid } = isDisk ? this.diskFile : this.root;
    return {
      ino: node,
      generation: node === ROOT_NODE ? 0 : this.tree.generation,
      size: isDisk ? disk.size() : 0,
      allocatedBytes: isDisk ? disk.occupiedBytes() : 0,
      atimeMs,
      mtimeMs,
      ctimeMs,
      mode,
      nlink: isDisk ? 1 : 2,
      uid,
      gid,
      blockSize: isDisk ? Math.min(Math.max(disk.clusterSize, SMALLEST_BUFFER), LARGEST_BUFFER) : SMALLEST_BUFFER,
    };
  }

  setattr(node: number, change: AttributeChange, handle?: number): Attributes {
    this.assertNode(node);
    this.assertWritable();
    if (change.size !== undefined) {
      this.assertDisk(node);
      if (handle === TRUNCATING_HANDLE) this.endFileAt(change.size);
      else if (change.size !== this.disk.size()) {
        this.disk.resize(change.size);
        this.touch();
      }
    }
    const file = node === this.diskNode ? this.diskFile : this.root;
    if (change.mode !== undefined) file.mode = (file.mode & ~PERMISSION_BITS) | (change.mode & PERMISSION_BITS);
    if (change.uid !== undefined) file.uid = change.uid;
    if (change.gid !== undefined) file.gid = change.gid;
    if (change.atimeMs !== undefined) file.atimeMs = change.atimeMs;
    if (change.mtimeMs !== undefined) file.mtimeMs = change.mtimeMs;
    file.ctimeMs = Date.now();
    return this.getattr(node);
  }

  readdir(node: number): readonly DirectoryEntry[] {
    this.assertDirectory(node);
    return [{ name: DISK_NAME, attributes: this.getattr(this.diskNode) }];
  }

  changeNames(node: number): never {
    this.assertDirectory(node);
    this.assertWritable();
    throw failure(ERRNO.EPERM, `the names here are fixed: ${DISK_NAME} is the disk of ${this.disk.path}`);
  }

  open(node: number, flags: number): number {
    this.assertDisk(node);
    if ((flags & O_ACCMODE) === O_RDONLY) return READ_HANDLE;
    this.assertWritable();
    // the size stays, like that of a block device: cp and a shell's > write over a disk and must not cut it to nothing
    const truncates = (flags & O_TRUNC) !== 0;
    if (truncates) this.truncation.open();
    this.words.addWritableHandle();
    return truncates ? TRUNCATING_HANDLE : WRITE_HANDLE;
  }

  mayKeepPages(_node: number): boolean {
    return !this.truncation.isActive && !this.words.hasStalePages;
  }

  release(_node: number, handle: number): void {
    if (!canWrite(handle)) return;
    if (handle === TRUNCATING_HANDLE) this.truncation.release();
    if (this.words.removeWritableHandle()) this.disk.makeClean();
    else this.disk.flush();
  }

  read(
    node: number,
    _handle: number,
    target: Uint8Array,
    targetOffset: number,
    length: number,
    offset: number,
  ): number {
    this.assertDisk(node);
    return this.disk.read(target, targetOffset, length, guestOffset(offset));
  }

  write(
    node: number,
    handle: number,
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: number,
  ): number {
    this.assertDisk(node);
    if (this.truncation.isActive) {
      const end = Math.min(offset + length, this.disk.size());
      if (offset < end) this.beforeChange(handle, offset, end);
    }
    const count = this.disk.write(source, sourceOffset, length, guestOffset(offset));
    this.touch();
    return count;
  }

  flush(node: number, handle: number): void {
    if (canWrite(handle)) this.fsync(node);
  }

  fsync(_node: number): void {
    this.disk.flush();
  }

  fallocate(node: number, handle: number, mode: number, offset: number, length: number): void {
    this.assertDisk(node);
    const end = offset + length;
    const action = mode & ~FALLOC_FL_KEEP_SIZE;
    const keepSize = (mode & FALLOC_FL_KEEP_SIZE) !== 0;
    // a hole never changes the size; the kernel has checked that, other callers may not have
    if (action === FALLOC_FL_PUNCH_HOLE && !keepSize) throw failure(ERRNO.EOPNOTSUPP, 'PUNCH_HOLE needs KEEP_SIZE');
    if (action !== 0 && action !== FALLOC_FL_PUNCH_HOLE && action !== FALLOC_FL_ZERO_RANGE) {
      throw failure(ERRNO.EOPNOTSUPP, `fallocate mode ${mode} is not served: only plain, PUNCH_HOLE and ZERO_RANGE`);
    }
    // writing zeros for a hole would take the space that a hole gives back; callers that want zeros use ZERO_RANGE
    if (action === FALLOC_FL_PUNCH_HOLE && !this.disk.readOnly && !this.disk.canDiscard()) {
      throw failure(ERRNO.EOPNOTSUPP, `${this.disk.path} can give no space back`);
    }
    if (!keepSize && end > this.disk.size()) this.disk.growTo(end);
    if (handle === TRUNCATING_HANDLE && !keepSize) this.beforeChange(handle, action === 0 ? end : offset, end);
    const last = Math.min(end, this.disk.size());
    if (action === 0) this.inSteps(offset, last, (at, count) => this.disk.preallocate(at, count));
    else if (action === FALLOC_FL_PUNCH_HOLE) this.inSteps(offset, last, (at, count) => this.disk.discard(at, count));
    else this.inSteps(offset, last, (at, count) => this.disk.writeZeroes(at, count));
    this.touch();
  }

  lseek(node: number, _handle: number, offset: number, whence: number): number {
    this.assertDisk(node);
    const size = this.disk.size();
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw failure(ERRNO.EINVAL, `lseek with whence ${whence}`);
    if (offset >= size) throw failure(ERRNO.ENXIO, `offset ${offset} lies beyond the end of the disk`);
    const found = this.disk.seek(offset, whence === SEEK_DATA);
    if (found < size || whence === SEEK_HOLE) return Math.min(found, size);
    throw failure(ERRNO.ENXIO, `there is no data after offset ${offset}`);
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
      files: this.tree.rootIsFile ? 1 : 2,
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
    this.assertNode(node);
    const attributes = node === this.diskNode ? this.attributes() : {};
    const value = Object.hasOwn(attributes, name) ? attributes[name] : undefined;
    if (value === undefined) throw failure(ERRNO.ENODATA, `no extended attribute ${name}`);
    return new TextEncoder().encode(value);
  }

  listxattr(node: number): readonly string[] {
    this.assertNode(node);
    return node === this.diskNode ? Object.keys(this.attributes()) : [];
  }

  private attributes(): Readonly<Record<string, string>> {
    const { path, format, clusterSize } = this.disk;
    return {
      'user.imgfuse.image': path,
      'user.imgfuse.format': format,
      'user.imgfuse.cluster_size': String(clusterSize),
    };
  }

  /** Bytes [start, end) of the disk are about to change: what a handle opened with O_TRUNC skips before them becomes zeros. */
  private beforeChange(handle: number, start: number, end: number): void {
    if (handle !== TRUNCATING_HANDLE) return this.truncation.note(start, end);
    if (this.truncation.extend(start, end, this.zeroGap)) this.words.noteGapsZeroed();
  }

  /**
   * ftruncate through a handle that was opened with O_TRUNC: cp and tar end a file with a hole in this way, so `size` is the end
   * of the file that was written over the disk. The disk grows if it is too small, and is never cut.
   */
  private endFileAt(size: number): void {
    this.truncation.cut(size);
    this.disk.growTo(size);
    this.beforeChange(TRUNCATING_HANDLE, size, size);
    this.touch();
  }

  /** The disk's content changed. */
  private touch(): void {
    const now = Date.now();
    this.diskFile.mtimeMs = now;
    this.diskFile.ctimeMs = now;
  }

  private inSteps(start: number, end: number, action: (at: number, count: number) => void): void {
    for (let at = start; at < end; at += RANGE_STEP) action(at, Math.min(RANGE_STEP, end - at));
  }

  private assertWritable(): void {
    if (!this.words.isReadOnly) return;
    throw failure(ERRNO.EROFS, `${this.disk.path} is mounted read-only`);
  }

  private assertNode(node: number): void {
    if (node !== ROOT_NODE && node !== this.diskNode) throw failure(ERRNO.ENOENT, `there is no node ${node}`);
  }

  private assertDisk(node: number): void {
    this.assertNode(node);
    if (node !== this.diskNode) throw failure(ERRNO.EISDIR, 'this is the directory; the disk is in it');
  }

  private assertDirectory(node: number): void {
    this.assertNode(node);
    if (this.tree.rootIsFile) throw failure(ERRNO.ENOTDIR, 'the mountpoint is the disk itself');
    if (node === this.diskNode) throw failure(ERRNO.ENOTDIR, `${DISK_NAME} is no directory`);
  }
}

function canWrite(handle: number): boolean {
  return handle === WRITE_HANDLE || handle === TRUNCATING_HANDLE;
}

function failure(errno: number, sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence, { errno });
}
