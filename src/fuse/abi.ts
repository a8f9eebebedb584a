// The FUSE kernel ABI: constants and structure layouts with the names of <linux/fuse.h> (protocol 7.45), little-endian.
// A structure is an object of field offsets from its own start, and `$bytes` is its own size, so that no field of the kernel
// needs another name. Every offset here is checked in the tests.

export const FUSE_KERNEL_VERSION = 7;
/** The minor version that the structures below are written for; the kernel keeps to the smaller of the two. */
export const FUSE_KERNEL_MINOR_VERSION = 40;
/** 7.23 (Linux 3.15): the first with the present layout of fuse_init_out. */
export const FUSE_OLDEST_MINOR_VERSION = 23;

/** 7.39 (Linux 6.6): the first where a write of a FOPEN_DIRECT_IO handle drops the pages that others have cached. */
export const FUSE_DIRECT_WRITES_DROP_PAGES_MINOR_VERSION = 39;

export const FUSE_ROOT_ID = 1;
export const FUSE_MIN_READ_BUFFER = 8192;
export const FUSE_NAME_MAX = 1024;

// opcodes
export const FUSE_LOOKUP = 1;
export const FUSE_FORGET = 2;
export const FUSE_GETATTR = 3;
export const FUSE_SETATTR = 4;
export const FUSE_READLINK = 5;
export const FUSE_SYMLINK = 6;
export const FUSE_MKNOD = 8;
export const FUSE_MKDIR = 9;
export const FUSE_UNLINK = 10;
export const FUSE_RMDIR = 11;
export const FUSE_RENAME = 12;
export const FUSE_LINK = 13;
export const FUSE_OPEN = 14;
export const FUSE_READ = 15;
export const FUSE_WRITE = 16;
export const FUSE_STATFS = 17;
export const FUSE_RELEASE = 18;
export const FUSE_FSYNC = 20;
export const FUSE_SETXATTR = 21;
export const FUSE_GETXATTR = 22;
export const FUSE_LISTXATTR = 23;
export const FUSE_REMOVEXATTR = 24;
export const FUSE_FLUSH = 25;
export const FUSE_INIT = 26;
export const FUSE_OPENDIR = 27;
export const FUSE_READDIR = 28;
export const FUSE_RELEASEDIR = 29;
export const FUSE_FSYNCDIR = 30;
export const FUSE_GETLK = 31;
export const FUSE_SETLK = 32;
export const FUSE_SETLKW = 33;
export const FUSE_ACCESS = 34;
export const FUSE_CREATE = 35;
export const FUSE_INTERRUPT = 36;
export const FUSE_BMAP = 37;
export const FUSE_DESTROY = 38;
export const FUSE_IOCTL = 39;
export const FUSE_POLL = 40;
export const FUSE_BATCH_FORGET = 42;
export const FUSE_FALLOCATE = 43;
export const FUSE_READDIRPLUS = 44;
export const FUSE_RENAME2 = 45;
export const FUSE_LSEEK = 46;
export const FUSE_COPY_FILE_RANGE = 47;
export const FUSE_SYNCFS = 50;
export const FUSE_TMPFILE = 51;
export const FUSE_STATX = 52;

/** One more than the largest opcode that a table by opcode has room for. */
export const FUSE_OPCODE_LIMIT = 64;

// flags of FUSE_INIT, first word
export const FUSE_ASYNC_READ = 1 << 0;
export const FUSE_ATOMIC_O_TRUNC = 1 << 3;
export const FUSE_EXPORT_SUPPORT = 1 << 4;
export const FUSE_BIG_WRITES = 1 << 5;
export const FUSE_DO_READDIRPLUS = 1 << 13;
export const FUSE_READDIRPLUS_AUTO = 1 << 14;
export const FUSE_ASYNC_DIO = 1 << 15;
export const FUSE_WRITEBACK_CACHE = 1 << 16;
export const FUSE_PARALLEL_DIROPS = 1 << 18;
export const FUSE_ABORT_ERROR = 1 << 21;
export const FUSE_MAX_PAGES = 1 << 22;
export const FUSE_EXPLICIT_INVAL_DATA = 1 << 25;
export const FUSE_HANDLE_KILLPRIV_V2 = 1 << 28;
export const FUSE_INIT_EXT = 1 << 30;
// second word (bits 32..63 of the 64-bit flags)
export const FUSE_DIRECT_IO_ALLOW_MMAP = 1 << (36 - 32);
export const FUSE_REQUEST_TIMEOUT = 1 << (42 - 32);

// fuse_setattr_in.valid
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_FH = 1 << 6;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;

// fuse_write_in.write_flags
/** A page of a mapping: the handle is any that can write. */
export const FUSE_WRITE_CACHE = 1 << 0;
/** There is a lock_owner: only writes that go past the pages name one. */
export const FUSE_WRITE_LOCKOWNER = 1 << 1;

// fuse_open_out.open_flags
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;
export const FOPEN_CACHE_DIR = 1 << 3;
export const FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6;

// notifications: the error of a reply to unique 0
export const FUSE_NOTIFY_INVAL_INODE = 2;

/** Bit 0 of `unique` marks the INTERRUPT of a request. */
export const FUSE_INT_REQ_BIT = 1;

export const fuse_in_header = {
  len: 0,
  opcode: 4,
  unique: 8,
  nodeid: 16,
  uid: 24,
  gid: 28,
  pid: 32,
  total_extlen: 36,
  $bytes: 40,
} as const;

export const fuse_out_header = { len: 0, error: 4, unique: 8, $bytes: 16 } as const;

export const fuse_init_in = { major: 0, minor: 4, max_readahead: 8, flags: 12, flags2: 16, $bytes: 64 } as const;
/** fuse_init_in of kernels without FUSE_INIT_EXT. */
export const FUSE_COMPAT_INIT_IN_SIZE = 16;

export const fuse_init_out = {
  major: 0,
  minor: 4,
  max_readahead: 8,
  flags: 12,
  max_background: 16,
  congestion_threshold: 18,
  max_write: 20,
  time_gran: 24,
  max_pages: 28,
  map_alignment: 30,
  flags2: 32,
  request_timeout: 40,
  $bytes: 64,
} as const;

export const fuse_attr = {
  ino: 0,
  size: 8,
  blocks: 16,
  atime: 24,
  mtime: 32,
  ctime: 40,
  atimensec: 48,
  mtimensec: 52,
  ctimensec: 56,
  mode: 60,
  nlink: 64,
  uid: 68,
  gid: 72,
  rdev: 76,
  blksize: 80,
  flags: 84,
  $bytes: 88,
} as const;

export const fuse_entry_out = {
  nodeid: 0,
  generation: 8,
  entry_valid: 16,
  attr_valid: 24,
  entry_valid_nsec: 32,
  attr_valid_nsec: 36,
  attr: 40,
  $bytes: 128,
} as const;

export const fuse_attr_out = { attr_valid: 0, attr_valid_nsec: 8, attr: 16, $bytes: 104 } as const;

export const fuse_forget_in = { nlookup: 0, $bytes: 8 } as const;
export const fuse_batch_forget_in = { count: 0, $bytes: 8 } as const;
export const fuse_forget_one = { nodeid: 0, nlookup: 8, $bytes: 16 } as const;
export const fuse_getattr_in = { getattr_flags: 0, fh: 8, $bytes: 16 } as const;

export const fuse_setattr_in = {
  valid: 0,
  fh: 8,
  size: 16,
  lock_owner: 24,
  atime: 32,
  mtime: 40,
  ctime: 48,
  atimensec: 56,
  mtimensec: 60,
  ctimensec: 64,
  mode: 68,
  uid: 76,
  gid: 80,
  $bytes: 88,
} as const;

export const fuse_open_in = { flags: 0, open_flags: 4, $bytes: 8 } as const;
export const fuse_open_out = { fh: 0, open_flags: 8, $bytes: 16 } as const;
export const fuse_release_in = { fh: 0, flags: 8, release_flags: 12, lock_owner: 16, $bytes: 24 } as const;
export const fuse_flush_in = { fh: 0, lock_owner: 16, $bytes: 24 } as const;

/** Also fuse_readdir's and fuse_readdirplus' arguments. */
export const fuse_read_in = {
  fh: 0,
  offset: 8,
  size: 16,
  read_flags: 20,
  lock_owner: 24,
  flags: 32,
  $bytes: 40,
} as const;

export const fuse_write_in = {
  fh: 0,
  offset: 8,
  size: 16,
  write_flags: 20,
  lock_owner: 24,
  flags: 32,
  $bytes: 40,
} as const;

export const fuse_write_out = { size: 0, $bytes: 8 } as const;

export const fuse_statfs_out = {
  blocks: 0,
  bfree: 8,
  bavail: 16,
  files: 24,
  ffree: 32,
  bsize: 40,
  namelen: 44,
  frsize: 48,
  $bytes: 80,
} as const;

export const fuse_notify_inval_inode_out = { ino: 0, off: 8, len: 16, $bytes: 24 } as const;
export const fuse_fsync_in = { fh: 0, fsync_flags: 8, $bytes: 16 } as const;
export const fuse_getxattr_in = { size: 0, $bytes: 8 } as const;
export const fuse_getxattr_out = { size: 0, $bytes: 8 } as const;
export const fuse_access_in = { mask: 0, $bytes: 8 } as const;
export const fuse_interrupt_in = { unique: 0, $bytes: 8 } as const;
export const fuse_fallocate_in = { fh: 0, offset: 8, length: 16, mode: 24, $bytes: 32 } as const;
export const fuse_lseek_in = { fh: 0, offset: 8, whence: 16, $bytes: 24 } as const;
export const fuse_lseek_out = { offset: 0, $bytes: 8 } as const;

/** `$bytes` is FUSE_NAME_OFFSET: the name follows, padded to 8 bytes. */
export const fuse_dirent = { ino: 0, off: 8, namelen: 16, type: 20, $bytes: 24 } as const;

/** Records of variable length are aligned to 64 bits. */
export function FUSE_REC_ALIGN(length: number): number {
  return (length + 7) & ~7;
}
