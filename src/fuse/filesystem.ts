// Filesystem: what a transport serves. Synchronous; every method either returns its answer or throws (errnoOf gives the
// errno of the reply). A node means the same for the life of the mount: node id == inode number, the root is 1, and FORGET
// is the transport's business. Data moves through the transport's own buffers, never through new ones.

/** Attributes of a node; times are milliseconds since the epoch (fractions allowed), sizes are bytes. */
export interface Attributes {
  readonly ino: number;
  /** 32 bits, different in each mount, for file handles of NFS; the kernel has 0 for the root of every mount */
  readonly generation: number;
  /** how long the kernel may keep the name of the node; 0 if another node may have it soon */
  readonly entrySeconds: number;
  readonly size: number;
  /** allocated bytes (st_blocks * 512) */
  readonly allocatedBytes: number;
  readonly atimeMs: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
  /** type and permission bits (S_IFDIR | 0o700, ...) */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  /** preferred I/O size in bytes */
  readonly blockSize: number;
}

/** What SETATTR changes; an absent member stays as it is. Times are milliseconds since the epoch. */
export interface AttributeChange {
  readonly size?: number;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly atimeMs?: number;
  readonly mtimeMs?: number;
}

export interface DirectoryEntry {
  readonly name: string;
  readonly attributes: Attributes;
}

/** statfs(2) in blocks of `blockSize` bytes. */
export interface Statfs {
  readonly blockSize: number;
  readonly blocks: number;
  readonly blocksFree: number;
  readonly blocksAvailable: number;
  readonly files: number;
  readonly filesFree: number;
  readonly nameMax: number;
}

export interface OpenedFile {
  readonly handle: number;
  /** keep: it uses the pages that the kernel may hold of the file; bypass: it goes past them, and leaves none */
  readonly pages: 'keep' | 'bypass';
}

/**
 * The pages that the kernel holds of files. A write through pages has changed them before its WRITE is sent. If they are dropped
 * in between, a reader may have the old bytes brought back by a READ that overtakes the WRITE, and those stay. So the answer
 * to an OPEN never drops any: the kernel may act on it much later. They are dropped where nobody can be writing through them.
 */
export interface KernelPages {
  /** Whether handles opened with O_DIRECT or O_TRUNC go past the pages. */
  readonly bypassedByDirect: boolean;
  /** Has every page of a file dropped when it returns. For a file that nobody has open: else it may wait for this thread. */
  drop(node: number): void;
  /**
   * The request that is being served has changed bytes [start, end) of a file beneath pages: it is answered when these are dropped.
   */
  dropBeforeReply(node: number, start: number, end: number): void;
}

/** The request is not answered by this thread, but by the LateFilesystem of the main thread, which may take its time. */
export type Later = 'later';

/** Files whose content takes time to be made, at their opening; asked for what a Filesystem has answered with `later`. */
export interface LateFilesystem {
  /** @returns a handle */
  open(node: number): Promise<number>;
  /** @returns the bytes from `offset` on, `length` at most; none at the end. Throws EBADF. */
  read(handle: number, offset: number, length: number): Uint8Array;
  release(handle: number): void;
}

/** Stands for an unknown handle: the kernel writes a page of a shared mapping through any handle that can write. */
export const NO_HANDLE = 0;

export interface Filesystem {
  /** Node `name` in directory `parent`. Throws missing (ENOENT), ENOTDIR. */
  lookup(parent: number, name: string): Attributes;
  getattr(node: number): Attributes;
  /** A change of size resizes the disk. @param handle of ftruncate(2); absent: none. Throws EISDIR, EROFS, EFBIG, ENOSPC. */
  setattr(node: number, change: AttributeChange, handle?: number): Attributes;
  /** Every entry of a directory but "." and "..". */
  readdir(node: number): readonly DirectoryEntry[];
  /** A name in directory `node` is to be made, moved or removed. Throws EPERM, or EROFS if nothing can be changed. */
  changeNames(node: number): never;
  /** @param flags open(2) flags @param pid of the process that opens it; 0: not known. Throws EISDIR, EROFS, busy. */
  open(node: number, flags: number, pid?: number): OpenedFile | Later;
  /** Called once per open, also without a preceding flush. */
  release(node: number, handle: number): Later | undefined;
  /** @returns bytes read into `target` from `targetOffset` on; fewer than `length` only at the end of the file */
  read(
    node: number,
    handle: number,
    target: Uint8Array,
    targetOffset: number,
    length: number,
    offset: number,
  ): number | Later;
  /**
   * @param isDirect it went past the pages of the kernel
   * @returns bytes written (all of them, or fewer at the end of a disk that does not grow)
   */
  write(
    node: number,
    handle: number,
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: number,
    isDirect?: boolean,
  ): number;
  /** close(2) of one descriptor of the handle. */
  flush(node: number, handle: number): void;
  /** Returns when everything acknowledged before is on stable storage. */
  fsync(node: number, handle: number): void;
  /** fallocate(2) with FALLOC_FL_* bits in `mode`. Throws EOPNOTSUPP for modes that are not served. */
  fallocate(node: number, handle: number, mode: number, offset: number, length: number): void;
  /** SEEK_DATA (3) and SEEK_HOLE (4) only; throws ENXIO beyond the end. */
  lseek(node: number, handle: number, offset: number, whence: number): number;
  statfs(node: number): Statfs;
  /** access(2); called only if the kernel does not check permissions itself. */
  access(node: number, mask: number, uid: number, gid: number): void;
  /** Value of an extended attribute. Throws ENODATA if there is none of that name. */
  getxattr(node: number, name: string): Uint8Array;
  listxattr(node: number): readonly string[];
}
