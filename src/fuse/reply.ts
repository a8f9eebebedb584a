// The reply buffer and its encoder. One buffer serves every request: the out header, then the answer, and one write sends
// both. READ data is read straight into the buffer at DATA_OFFSET.
// Invariant: `length` is 0 (no reply) or the exact length of what `bytes` starts with, and equals fuse_out_header.len.

import { writeU64LE } from '../bytes/endian.ts';
import { S_IFMT } from '../bytes/linux.ts';
import { assert } from '../errors/index.ts';
import {
  FUSE_REC_ALIGN,
  fuse_attr,
  fuse_attr_out,
  fuse_dirent,
  fuse_entry_out,
  fuse_getxattr_out,
  fuse_init_out,
  fuse_lseek_out,
  fuse_open_out,
  fuse_out_header,
  fuse_statfs_out,
  fuse_write_out,
} from './abi.ts';
import type { Attributes, Statfs } from './filesystem.ts';
import type { Protocol } from './protocol.ts';

/** Where the answer starts in the buffer. */
export const DATA_OFFSET = fuse_out_header.$bytes;

/**
 * How long the kernel may keep attributes. At an opening with O_TRUNC the kernel sets its copy of the size to 0 twice, the second
 * time without marking it as stale: until it expires, every buffered read finds the end of the file, and a loop device gets EIO.
 */
export const ATTRIBUTE_TIMEOUT_SECONDS = 0;

/** A record of READDIR or READDIRPLUS. */
export interface Dirent {
  readonly name: Uint8Array;
  readonly ino: number;
  readonly mode: number;
  /** what READDIR gives back to go on after this record */
  readonly nextOffset: number;
  /** attributes for READDIRPLUS: undefined for READDIR, null for a name without an entry (".", "..") */
  readonly entry: Attributes | null | undefined;
}

export class Reply {
  readonly bytes: Uint8Array;
  private readonly view: DataView;
  length = 0;
  /** another thread answers, with a Reply of its own */
  isLater = false;

  /** @param capacity bytes that an answer may have, without the out header */
  constructor(capacity: number) {
    this.bytes = new Uint8Array(DATA_OFFSET + capacity);
    this.view = new DataView(this.bytes.buffer);
  }

  /** Bytes that an answer may have. */
  get capacity(): number {
    return this.bytes.length - DATA_OFFSET;
  }

  /** Starts the reply to the request with this `unique`; until an answer is given there is none to send. */
  begin(uniqueLow: number, uniqueHigh: number): void {
    this.length = 0;
    this.isLater = false;
    this.view.setUint32(fuse_out_header.unique, uniqueLow, true);
    this.view.setUint32(fuse_out_header.unique + 4, uniqueHigh, true);
  }

  later(): void {
    this.isLater = true;
  }

  /** @param errno positive */
  error(errno: number): void {
    this.finish(0, -errno);
  }

  empty(): void {
    this.finish(0, 0);
  }

  /** The `count` bytes that stand at DATA_OFFSET. */
  data(count: number): void {
    assert(count >= 0 && count <= this.capacity, 'an answer is larger than the reply buffer');
    this.finish(count, 0);
  }

  init(protocol: Protocol): void {
    const { view } = this;
    this.clear(fuse_init_out.$bytes);
    view.setUint32(DATA_OFFSET + fuse_init_out.major, protocol.major, true);
    view.setUint32(DATA_OFFSET + fuse_init_out.minor, protocol.minor, true);
    view.setUint32(DATA_OFFSET + fuse_init_out.max_readahead, protocol.maxReadahead, true);
    view.setUint32(DATA_OFFSET + fuse_init_out.flags, protocol.flags, true);
    view.setUint16(DATA_OFFSET + fuse_init_out.max_background, protocol.maxBackground, true);
    view.setUint16(DATA_OFFSET + fuse_init_out.congestion_threshold, protocol.congestionThreshold, true);
    view.setUint32(DATA_OFFSET + fuse_init_out.max_write, protocol.maxWrite, true);
    view.setUint32(DATA_OFFSET + fuse_init_out.time_gran, 1, true);
    view.setUint16(DATA_OFFSET + fuse_init_out.max_pages, protocol.maxPages, true);
    view.setUint32(DATA_OFFSET + fuse_init_out.flags2, protocol.flags2, true);
    view.setUint16(DATA_OFFSET + fuse_init_out.request_timeout, protocol.requestTimeout, true);
    this.finish(fuse_init_out.$bytes, 0);
  }

  attributes(attributes: Attributes): void {
    this.clear(fuse_attr_out.$bytes);
    writeU64LE(this.view, DATA_OFFSET + fuse_attr_out.attr_valid, ATTRIBUTE_TIMEOUT_SECONDS);
    this.writeAttributes(DATA_OFFSET + fuse_attr_out.attr, attributes);
    this.finish(fuse_attr_out.$bytes, 0);
  }

  entry(attributes: Attributes): void {
    this.writeEntry(DATA_OFFSET, attributes);
    this.finish(fuse_entry_out.$bytes, 0);
  }

  open(handle: number, openFlags: number): void {
    this.clear(fuse_open_out.$bytes);
    writeU64LE(this.view, DATA_OFFSET + fuse_open_out.fh, handle);
    this.view.setUint32(DATA_OFFSET + fuse_open_out.open_flags, openFlags, true);
    this.finish(fuse_open_out.$bytes, 0);
  }

  written(count: number): void {
    this.view.setUint32(DATA_OFFSET + fuse_write_out.size, count, true);
    this.view.setUint32(DATA_OFFSET + fuse_write_out.size + 4, 0, true);
    this.finish(fuse_write_out.$bytes, 0);
  }

  seeked(offset: number): void {
    writeU64LE(this.view, DATA_OFFSET + fuse_lseek_out.offset, offset);
    this.finish(fuse_lseek_out.$bytes, 0);
  }

  /** The size of an extended attribute, or of the list of their names. */
  xattrSize(size: number): void {
    this.clear(fuse_getxattr_out.$bytes);
    this.view.setUint32(DATA_OFFSET + fuse_getxattr_out.size, size, true);
    this.finish(fuse_getxattr_out.$bytes, 0);
  }

  /** Copies a small answer. */
  copy(source: Uint8Array): void {
    this.bytes.set(source, DATA_OFFSET);
    this.data(source.length);
  }

  statfs(statfs: Statfs): void {
    this.clear(fuse_statfs_out.$bytes);
    writeU64LE(this.view, DATA_OFFSET + fuse_statfs_out.blocks, statfs.blocks);
    writeU64LE(this.view, DATA_OFFSET + fuse_statfs_out.bfree, statfs.blocksFree);
    writeU64LE(this.view, DATA_OFFSET + fuse_statfs_out.bavail, statfs.blocksAvailable);
    writeU64LE(this.view, DATA_OFFSET + fuse_statfs_out.files, statfs.files);
    writeU64LE(this.view, DATA_OFFSET + fuse_statfs_out.ffree, statfs.filesFree);
    this.view.setUint32(DATA_OFFSET + fuse_statfs_out.bsize, statfs.blockSize, true);
    this.view.setUint32(DATA_OFFSET + fuse_statfs_out.namelen, statfs.nameMax, true);
    this.view.setUint32(DATA_OFFSET + fuse_statfs_out.frsize, statfs.blockSize, true);
    this.finish(fuse_statfs_out.$bytes, 0);
  }

  /** Appends a record to an answer of `used` bytes. @returns the bytes used then, or -1 if `limit` has no room for it */
  appendDirent(used: number, limit: number, { name, ino, mode, nextOffset, entry }: Dirent): number {
    const entrySize = entry === undefined ? 0 : fuse_entry_out.$bytes;
    const recordSize = FUSE_REC_ALIGN(entrySize + fuse_dirent.$bytes + name.length);
    if (used + recordSize > limit) return -1;
    const start = DATA_OFFSET + used;
    this.bytes.fill(0, start, start + recordSize);
    if (entry !== undefined && entry !== null) this.writeEntry(start, entry);
    const dirent = start + entrySize;
    writeU64LE(this.view, dirent + fuse_dirent.ino, ino);
    writeU64LE(this.view, dirent + fuse_dirent.off, nextOffset);
    this.view.setUint32(dirent + fuse_dirent.namelen, name.length, true);
    this.view.setUint32(dirent + fuse_dirent.type, (mode & S_IFMT) >> 12, true);
    this.bytes.set(name, dirent + fuse_dirent.$bytes);
    return used + recordSize;
  }

  private writeEntry(start: number, attributes: Attributes): void {
    this.bytes.fill(0, start, start + fuse_entry_out.$bytes);
    writeU64LE(this.view, start + fuse_entry_out.nodeid, attributes.ino);
    writeU64LE(this.view, start + fuse_entry_out.generation, attributes.generation);
    writeU64LE(this.view, start + fuse_entry_out.entry_valid, attributes.entrySeconds);
    writeU64LE(this.view, start + fuse_entry_out.attr_valid, ATTRIBUTE_TIMEOUT_SECONDS);
    this.writeAttributes(start + fuse_entry_out.attr, attributes);
  }

  private writeAttributes(start: number, attributes: Attributes): void {
    const view = this.view;
    writeU64LE(view, start + fuse_attr.ino, attributes.ino);
    writeU64LE(view, start + fuse_attr.size, attributes.size);
    writeU64LE(view, start + fuse_attr.blocks, Math.ceil(attributes.allocatedBytes / 512));
    this.writeTime(start + fuse_attr.atime, start + fuse_attr.atimensec, attributes.atimeMs);
    this.writeTime(start + fuse_attr.mtime, start + fuse_attr.mtimensec, attributes.mtimeMs);
    this.writeTime(start + fuse_attr.ctime, start + fuse_attr.ctimensec, attributes.ctimeMs);
    view.setUint32(start + fuse_attr.mode, attributes.mode, true);
    view.setUint32(start + fuse_attr.nlink, attributes.nlink, true);
    view.setUint32(start + fuse_attr.uid, attributes.uid, true);
    view.setUint32(start + fuse_attr.gid, attributes.gid, true);
    view.setUint32(start + fuse_attr.rdev, 0, true);
    view.setUint32(start + fuse_attr.blksize, attributes.blockSize, true);
    view.setUint32(start + fuse_attr.flags, 0, true);
  }

  /** Seconds as a signed 64-bit number (writeU64LE wraps it), nanoseconds from 0 to 999999999. */
  private writeTime(secondsOffset: number, nanosecondsOffset: number, timeMs: number): void {
    const seconds = Math.floor(timeMs / 1000);
    writeU64LE(this.view, secondsOffset, seconds);
    this.view.setUint32(nanosecondsOffset, Math.min(Math.floor((timeMs - seconds * 1000) * 1e6), 999_999_999), true);
  }

  private clear(size: number): void {
    this.bytes.fill(0, DATA_OFFSET, DATA_OFFSET + size);
  }

  private finish(answerLength: number, error: number): void {
    this.length = DATA_OFFSET + answerLength;
    this.view.setUint32(fuse_out_header.len, this.length, true);
    this.view.setInt32(fuse_out_header.error, error, true);
  }
}
