// What each opcode does: a table from opcode to the layout of its body and the call on the Filesystem that answers it.
// Invariant: FSYNC, FLUSH, STATFS and FALLOCATE have an entry; an opcode without one is answered ENOSYS, and the kernel
// remembers that for the life of the mount.

import { O_DIRECT, O_TRUNC, S_IFDIR, SEEK_DATA, SEEK_HOLE } from '../bytes/linux.ts';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import * as abi from './abi.ts';
import {
  type AttributeChange,
  type DirectoryEntry,
  type Filesystem,
  NO_HANDLE,
  type OpenedFile,
} from './filesystem.ts';
import { dropsPagesOfOthers, type Protocol } from './protocol.ts';
import { DATA_OFFSET, type Reply } from './reply.ts';
import type { Request } from './request.ts';

/** The open(2) flag; its value depends on the architecture. O_SYNC has this bit, too. */
const O_DSYNC = { mips: 0o20, mipsel: 0o20 }[process.arch as string] ?? 0o10000;
const S_ISUID_S_ISGID = 0o6000;

/** Either fills the reply or throws; the server turns what is thrown into an error reply. */
export type Act = (filesystem: Filesystem, request: Request, reply: Reply, protocol: Protocol) => void;

export interface Operation {
  readonly name: string;
  /** bytes of the structure that the body starts with */
  readonly bodySize: number;
  /** whether a name or data follows the structure */
  readonly hasTail: boolean;
  /** false: the kernel expects no reply, not even an error */
  readonly replies: boolean;
  /** it changes bytes or makes them durable, and acting on the same request again, from the start, does no harm */
  readonly repeatable: boolean;
  readonly act: Act;
}

function lookup(filesystem: Filesystem, request: Request, reply: Reply): void {
  const name = request.name(0);
  const isSelf = name === '.' || (name === '..' && request.nodeid === abi.FUSE_ROOT_ID);
  reply.entry(isSelf ? filesystem.getattr(request.nodeid) : filesystem.lookup(request.nodeid, name));
}

function setattr(filesystem: Filesystem, request: Request, reply: Reply): void {
  const layout = abi.fuse_setattr_in;
  const valid = request.u32(layout.valid);
  const change: { -readonly [K in keyof AttributeChange]: AttributeChange[K] } = {};
  if (valid & abi.FATTR_SIZE) change.size = sizeOrTooBig(request.u64(layout.size));
  // set-user-id and set-group-id bits are never kept: that is what FUSE_HANDLE_KILLPRIV_V2 promises to the kernel
  if (valid & abi.FATTR_MODE) change.mode = request.u32(layout.mode) & ~S_ISUID_S_ISGID;
  if (valid & abi.FATTR_UID) change.uid = request.u32(layout.uid);
  if (valid & abi.FATTR_GID) change.gid = request.u32(layout.gid);
  if (valid & abi.FATTR_ATIME_NOW) change.atimeMs = Date.now();
  else if (valid & abi.FATTR_ATIME) change.atimeMs = request.timeMs(layout.atime, layout.atimensec);
  if (valid & abi.FATTR_MTIME_NOW) change.mtimeMs = Date.now();
  else if (valid & abi.FATTR_MTIME) change.mtimeMs = request.timeMs(layout.mtime, layout.mtimensec);
  const handle = valid & abi.FATTR_FH ? request.handle(layout.fh) : NO_HANDLE;
  reply.attributes(filesystem.setattr(request.nodeid, change, handle));
}

function open(filesystem: Filesystem, request: Request, reply: Reply, protocol: Protocol): void {
  const flags = request.u32(abi.fuse_open_in.flags);
  const opened = filesystem.open(request.nodeid, flags, request.pid);
  if (opened === 'later') return reply.later();
  reply.open(opened.handle, openFlags(opened.pages, flags, protocol));
}

/**
 * How the kernel caches for a handle. Handles opened with O_DIRECT or O_TRUNC go past its pages: one opened with O_TRUNC changes
 * bytes that it does not write. Only Linux 6.6 and later drop the pages of others at such a write; before, only O_DIRECT does.
 * Without FOPEN_KEEP_CACHE any opening would drop pages, one that goes past them, too: see KernelPages.
 */
function openFlags(pages: OpenedFile['pages'], flags: number, protocol: Protocol): number {
  const isParallel = dropsPagesOfOthers(protocol) && (flags & O_DIRECT) !== 0;
  const bypasses = pages === 'bypass' || isParallel || (dropsPagesOfOthers(protocol) && (flags & O_TRUNC) !== 0);
  return (
    abi.FOPEN_KEEP_CACHE | (bypasses ? abi.FOPEN_DIRECT_IO : 0) | (isParallel ? abi.FOPEN_PARALLEL_DIRECT_WRITES : 0)
  );
}

function read(filesystem: Filesystem, request: Request, reply: Reply): void {
  const layout = abi.fuse_read_in;
  const length = request.u32(layout.size);
  const offset = request.u64(layout.offset);
  if (length > reply.capacity) {
    throw new ImgfuseError('io', `the kernel asked for ${length} bytes at once; ${reply.capacity} were agreed`);
  }
  // beyond every possible end of a file
  if (!Number.isSafeInteger(offset + length)) return reply.data(0);
  const handle = request.handle(layout.fh);
  const count = filesystem.read(request.nodeid, handle, reply.bytes, DATA_OFFSET, length, offset);
  if (count === 'later') return reply.later();
  reply.data(count);
}

function write(filesystem: Filesystem, request: Request, reply: Reply): void {
  const layout = abi.fuse_write_in;
  const length = request.u32(layout.size);
  if (length !== request.bodyLength - layout.$bytes) {
    throw new ImgfuseError('io', `a WRITE of ${length} bytes came with ${request.bodyLength - layout.$bytes}`);
  }
  const offset = sizeOrTooBig(request.u64(layout.offset));
  sizeOrTooBig(offset + length);
  const writeFlags = request.u32(layout.write_flags);
  const isGuessed = (writeFlags & abi.FUSE_WRITE_CACHE) !== 0;
  const isDirect = (writeFlags & abi.FUSE_WRITE_LOCKOWNER) !== 0;
  const handle = isGuessed ? NO_HANDLE : request.handle(layout.fh);
  const dataOffset = request.dataOffset(layout.$bytes);
  const written = filesystem.write(request.nodeid, handle, request.bytes, dataOffset, length, offset, isDirect);
  // after a direct write the kernel sends no FSYNC: the server syncs if the write is synchronous (O_DSYNC, RWF_DSYNC)
  if (request.u32(layout.flags) & O_DSYNC) filesystem.fsync(request.nodeid, handle);
  reply.written(written);
}

function flush(filesystem: Filesystem, request: Request, reply: Reply): void {
  filesystem.flush(request.nodeid, request.handle(abi.fuse_flush_in.fh));
  reply.empty();
}

function fsync(filesystem: Filesystem, request: Request, reply: Reply): void {
  filesystem.fsync(request.nodeid, request.handle(abi.fuse_fsync_in.fh));
  reply.empty();
}

/** Both kinds of READDIR. The offset is the index of the next record in ".", "..", then the entries: no state is kept. */
function readdir(filesystem: Filesystem, request: Request, reply: Reply, isPlus: boolean): void {
  const node = request.nodeid;
  const limit = Math.min(request.u32(abi.fuse_read_in.size), reply.capacity);
  const entries: readonly DirectoryEntry[] = filesystem.readdir(node);
  const first = request.u64(abi.fuse_read_in.offset);
  let used = 0;
  for (let index = first; index < entries.length + 2; index += 1) {
    const entry = index < 2 ? undefined : entries[index - 2]!;
    const name = Buffer.from(entry?.name ?? (index === 0 ? '.' : '..'));
    const ino = entry?.attributes.ino ?? (index === 0 ? node : abi.FUSE_ROOT_ID);
    const mode = entry?.attributes.mode ?? S_IFDIR;
    const plus = isPlus ? (entry?.attributes ?? null) : undefined;
    const next = reply.appendDirent(used, limit, { name, ino, mode, nextOffset: index + 1, entry: plus });
    if (next < 0) break;
    used = next;
  }
  reply.data(used);
}

/** Refused whatever the body says. */
function changeNames(filesystem: Filesystem, request: Request): void {
  filesystem.changeNames(request.nodeid);
}

function fallocate(filesystem: Filesystem, request: Request, reply: Reply): void {
  const layout = abi.fuse_fallocate_in;
  const offset = sizeOrTooBig(request.u64(layout.offset));
  const length = sizeOrTooBig(request.u64(layout.length));
  sizeOrTooBig(offset + length);
  filesystem.fallocate(request.nodeid, request.handle(layout.fh), request.u32(layout.mode), offset, length);
  reply.empty();
}

function lseek(filesystem: Filesystem, request: Request, reply: Reply): void {
  const layout = abi.fuse_lseek_in;
  const whence = request.u32(layout.whence);
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw new ImgfuseError('usage', `lseek with whence ${whence}`);
  const offset = request.u64(layout.offset);
  if (Number.isNaN(offset)) throw new ImgfuseError('limit', 'lseek beyond the end', { errno: ERRNO.ENXIO });
  reply.seeked(filesystem.lseek(request.nodeid, request.handle(layout.fh), offset, whence));
}

function getxattr(filesystem: Filesystem, request: Request, reply: Reply): void {
  const name = request.name(abi.fuse_getxattr_in.$bytes);
  answerXattr(request, reply, filesystem.getxattr(request.nodeid, name));
}

function listxattr(filesystem: Filesystem, request: Request, reply: Reply): void {
  const names = filesystem.listxattr(request.nodeid);
  answerXattr(request, reply, Buffer.from(names.map((name) => `${name}\0`).join('')));
}

/** A size of 0 asks how large the value is; a size that is too small is ERANGE. */
function answerXattr(request: Request, reply: Reply, value: Uint8Array): void {
  const limit = request.u32(abi.fuse_getxattr_in.size);
  if (limit === 0) return reply.xattrSize(value.length);
  if (value.length > limit || value.length > reply.capacity) {
    throw new ImgfuseError('limit', 'the attribute does not fit', { errno: ERRNO.ERANGE });
  }
  reply.copy(value);
}

function sizeOrTooBig(value: number): number {
  if (Number.isSafeInteger(value)) return value;
  throw new ImgfuseError('limit', 'offsets and sizes above 8 PiB are not supported');
}

/** Nodes are permanent, so there is nothing to forget; a request runs to its end, so there is nothing to interrupt. */
function nothing(): void {}

function succeed(_filesystem: Filesystem, _request: Request, reply: Reply): void {
  reply.empty();
}

function entry(
  name: string,
  bodySize: number,
  act: Act,
  options: { tail?: boolean; replies?: boolean; repeatable?: boolean } = {},
): Operation {
  const { tail = false, replies = true, repeatable = false } = options;
  return { name, bodySize, act, hasTail: tail, replies, repeatable };
}

const TAIL = { tail: true } as const;
const REPEATABLE = { repeatable: true } as const;

/** By opcode. */
export const OPERATIONS: readonly (Operation | undefined)[] = table({
  [abi.FUSE_LOOKUP]: entry('LOOKUP', 0, lookup, TAIL),
  [abi.FUSE_FORGET]: entry('FORGET', abi.fuse_forget_in.$bytes, nothing, { replies: false }),
  [abi.FUSE_BATCH_FORGET]: entry('BATCH_FORGET', abi.fuse_batch_forget_in.$bytes, nothing, {
    tail: true,
    replies: false,
  }),
  [abi.FUSE_INTERRUPT]: entry('INTERRUPT', abi.fuse_interrupt_in.$bytes, nothing, { replies: false }),
  [abi.FUSE_GETATTR]: entry('GETATTR', abi.fuse_getattr_in.$bytes, (filesystem, request, reply) =>
    reply.attributes(filesystem.getattr(request.nodeid)),
  ),
  [abi.FUSE_SETATTR]: entry('SETATTR', abi.fuse_setattr_in.$bytes, setattr, REPEATABLE),
  // the names are fixed; ENOSYS would be "Function not implemented"
  [abi.FUSE_SYMLINK]: entry('SYMLINK', 0, changeNames, TAIL),
  [abi.FUSE_MKNOD]: entry('MKNOD', 0, changeNames, TAIL),
  [abi.FUSE_MKDIR]: entry('MKDIR', 0, changeNames, TAIL),
  [abi.FUSE_UNLINK]: entry('UNLINK', 0, changeNames, TAIL),
  [abi.FUSE_RMDIR]: entry('RMDIR', 0, changeNames, TAIL),
  [abi.FUSE_RENAME]: entry('RENAME', 0, changeNames, TAIL),
  [abi.FUSE_RENAME2]: entry('RENAME2', 0, changeNames, TAIL),
  [abi.FUSE_LINK]: entry('LINK', 0, changeNames, TAIL),
  [abi.FUSE_CREATE]: entry('CREATE', 0, changeNames, TAIL),
  [abi.FUSE_OPEN]: entry('OPEN', abi.fuse_open_in.$bytes, open),
  [abi.FUSE_READ]: entry('READ', abi.fuse_read_in.$bytes, read),
  [abi.FUSE_WRITE]: entry('WRITE', abi.fuse_write_in.$bytes, write, { tail: true, repeatable: true }),
  [abi.FUSE_STATFS]: entry('STATFS', 0, (filesystem, request, reply) =>
    reply.statfs(filesystem.statfs(request.nodeid)),
  ),
  // not repeatable: a second one would count another handle as closed
  [abi.FUSE_RELEASE]: entry('RELEASE', abi.fuse_release_in.$bytes, (filesystem, request, reply) => {
    if (filesystem.release(request.nodeid, request.handle(abi.fuse_release_in.fh)) === 'later') return reply.later();
    reply.empty();
  }),
  [abi.FUSE_FLUSH]: entry('FLUSH', abi.fuse_flush_in.$bytes, flush, REPEATABLE),
  [abi.FUSE_FSYNC]: entry('FSYNC', abi.fuse_fsync_in.$bytes, fsync, REPEATABLE),
  [abi.FUSE_OPENDIR]: entry('OPENDIR', abi.fuse_open_in.$bytes, (filesystem, request, reply) => {
    filesystem.readdir(request.nodeid);
    reply.open(0, 0);
  }),
  [abi.FUSE_READDIR]: entry('READDIR', abi.fuse_read_in.$bytes, (filesystem, request, reply) =>
    readdir(filesystem, request, reply, false),
  ),
  [abi.FUSE_READDIRPLUS]: entry('READDIRPLUS', abi.fuse_read_in.$bytes, (filesystem, request, reply) =>
    readdir(filesystem, request, reply, true),
  ),
  [abi.FUSE_RELEASEDIR]: entry('RELEASEDIR', abi.fuse_release_in.$bytes, succeed),
  // the names in our directories are permanent: there is nothing to make durable
  [abi.FUSE_FSYNCDIR]: entry('FSYNCDIR', abi.fuse_fsync_in.$bytes, succeed),
  [abi.FUSE_ACCESS]: entry('ACCESS', abi.fuse_access_in.$bytes, (filesystem, request, reply) => {
    filesystem.access(request.nodeid, request.u32(abi.fuse_access_in.mask), request.uid, request.gid);
    reply.empty();
  }),
  [abi.FUSE_FALLOCATE]: entry('FALLOCATE', abi.fuse_fallocate_in.$bytes, fallocate, REPEATABLE),
  [abi.FUSE_LSEEK]: entry('LSEEK', abi.fuse_lseek_in.$bytes, lseek),
  [abi.FUSE_GETXATTR]: entry('GETXATTR', abi.fuse_getxattr_in.$bytes, getxattr, TAIL),
  [abi.FUSE_LISTXATTR]: entry('LISTXATTR', abi.fuse_getxattr_in.$bytes, listxattr),
  [abi.FUSE_DESTROY]: entry('DESTROY', 0, succeed),
});

/** Names of the opcodes that are answered with ENOSYS. */
const UNKNOWN_HERE: Readonly<Record<number, string>> = {
  [abi.FUSE_READLINK]: 'READLINK',
  [abi.FUSE_SETXATTR]: 'SETXATTR',
  [abi.FUSE_REMOVEXATTR]: 'REMOVEXATTR',
  [abi.FUSE_GETLK]: 'GETLK',
  [abi.FUSE_SETLK]: 'SETLK',
  [abi.FUSE_SETLKW]: 'SETLKW',
  [abi.FUSE_BMAP]: 'BMAP',
  [abi.FUSE_IOCTL]: 'IOCTL',
  [abi.FUSE_POLL]: 'POLL',
  [abi.FUSE_COPY_FILE_RANGE]: 'COPY_FILE_RANGE',
  [abi.FUSE_SYNCFS]: 'SYNCFS',
  [abi.FUSE_TMPFILE]: 'TMPFILE',
  [abi.FUSE_STATX]: 'STATX',
};

/** The kernel's name of an operation, without FUSE_. */
export function operationName(opcode: number): string {
  return OPERATIONS[opcode]?.name ?? UNKNOWN_HERE[opcode] ?? `opcode ${opcode}`;
}

function table(entries: Readonly<Record<number, Operation>>): readonly (Operation | undefined)[] {
  return Array.from({ length: abi.FUSE_OPCODE_LIMIT }, (_, opcode) => entries[opcode]);
}
