// A Filesystem double, as naive as it can be: one disk, kept in a sparse file, its attributes in shared memory so that
// several worker threads can serve it. Plain JavaScript, because it runs in a child process on the built modules.
// The disk does not grow by writing; it is resized by truncate and by fallocate without KEEP_SIZE.

import * as fs from 'node:fs';
import { FALLOC_FL_KEEP_SIZE } from '../../dist/bytes/linux.js';
import { ImgfuseError } from '../../dist/errors/index.js';
import { fallocate, lseek } from '../../dist/native/index.js';

const NO_HANDLE = 0;
const ROOT = 1;
const DISK_NAME = 'disk.raw';
const BLOCK_SIZE = 65536;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const O_TRUNC = 0o1000;
const PUNCH_AND_ZERO = 0x02 | 0x10;
// slots of the shared attributes
const MODE = 0;
const UID = 1;
const GID = 2;
const ATIME = 3;
const MTIME = 4;
const SLOTS = 5;

const XATTRS = { 'user.imgfuse.format': Buffer.from('plain') };

export function createSharedAttributes() {
  const shared = new SharedArrayBuffer(SLOTS * 8);
  const slots = new Float64Array(shared);
  slots[MODE] = 0o600;
  slots[UID] = process.geteuid();
  slots[GID] = process.getegid();
  slots[ATIME] = slots[MTIME] = Date.UTC(2020, 0, 2, 3, 4, 5);
  return shared;
}

export class PlainFilesystem {
  /** @param {{ backing: string, readOnly: boolean, rootIsFile: boolean, attributes: SharedArrayBuffer }} options */
  constructor(options) {
    this.fd = fs.openSync(options.backing, options.readOnly ? 'r' : 'r+');
    this.readOnly = options.readOnly;
    this.diskNode = options.rootIsFile ? ROOT : 2;
    this.slots = new Float64Array(options.attributes);
  }

  lookup(parent, name) {
    if (parent !== ROOT || this.diskNode === ROOT) throw new ImgfuseError('usage', 'not a directory', { errno: 20 });
    if (name !== DISK_NAME) throw new ImgfuseError('missing', `no ${name}`);
    return this.getattr(this.diskNode);
  }

  getattr(node) {
    const isDisk = node === this.diskNode;
    if (!isDisk && node !== ROOT) throw new ImgfuseError('missing', `no node ${node}`);
    const status = fs.fstatSync(this.fd);
    return {
      ino: node,
      generation: 0,
      entrySeconds: 60,
      size: isDisk ? status.size : 0,
      allocatedBytes: isDisk ? status.blocks * 512 : 0,
      atimeMs: this.slots[ATIME],
      mtimeMs: this.slots[MTIME],
      ctimeMs: this.slots[MTIME],
      mode: isDisk ? S_IFREG | this.slots[MODE] : S_IFDIR | 0o700,
      nlink: isDisk ? 1 : 2,
      uid: this.slots[UID],
      gid: this.slots[GID],
      blockSize: BLOCK_SIZE,
    };
  }

  setattr(node, change) {
    this.mustBeDisk(node);
    if (change.size !== undefined) {
      this.mustBeWritable();
      fs.ftruncateSync(this.fd, change.size);
    }
    if (change.mode !== undefined) this.slots[MODE] = change.mode & 0o7777;
    if (change.uid !== undefined) this.slots[UID] = change.uid;
    if (change.gid !== undefined) this.slots[GID] = change.gid;
    if (change.atimeMs !== undefined) this.slots[ATIME] = change.atimeMs;
    if (change.mtimeMs !== undefined) this.slots[MTIME] = change.mtimeMs;
    return this.getattr(node);
  }

  readdir(node) {
    if (node !== ROOT || this.diskNode === ROOT) throw new ImgfuseError('usage', 'not a directory', { errno: 20 });
    return [{ name: DISK_NAME, attributes: this.getattr(this.diskNode) }];
  }

  changeNames() {
    throw new ImgfuseError('usage', 'the names are fixed', { errno: this.readOnly ? 30 : 1 });
  }

  open(node, flags) {
    this.mustBeDisk(node);
    if (flags & O_TRUNC) this.setattr(node, { size: 0 });
    return { handle: 7, pages: 'keep' };
  }

  release(node, handle) {
    this.mustBeOpen(node, handle);
  }

  read(node, handle, target, targetOffset, length, offset) {
    this.mustBeOpen(node, handle);
    return fs.readSync(this.fd, target, targetOffset, length, offset);
  }

  write(node, handle, source, sourceOffset, length, offset) {
    if (handle !== NO_HANDLE) this.mustBeOpen(node, handle);
    this.mustBeWritable();
    const room = fs.fstatSync(this.fd).size - offset;
    if (room <= 0) throw new ImgfuseError('limit', 'beyond the end of the disk');
    return fs.writeSync(this.fd, source, sourceOffset, Math.min(length, room), offset);
  }

  flush(node, handle) {
    this.mustBeOpen(node, handle);
  }

  fsync(node, handle) {
    this.mustBeOpen(node, handle);
    fs.fdatasyncSync(this.fd);
  }

  fallocate(node, handle, mode, offset, length) {
    this.mustBeOpen(node, handle);
    this.mustBeWritable();
    if (mode & ~(PUNCH_AND_ZERO | FALLOC_FL_KEEP_SIZE)) throw new ImgfuseError('unsupported', `mode ${mode}`);
    fallocate(this.fd, mode, offset, length);
  }

  lseek(node, handle, offset, whence) {
    this.mustBeOpen(node, handle);
    return lseek(this.fd, offset, whence);
  }

  statfs() {
    const size = fs.fstatSync(this.fd).size;
    const blocks = Math.ceil(size / BLOCK_SIZE);
    return {
      blockSize: BLOCK_SIZE,
      blocks,
      blocksFree: Math.floor(blocks / 2),
      blocksAvailable: Math.floor(blocks / 3),
      files: 1,
      filesFree: 0,
      nameMax: 255,
    };
  }

  access() {}

  getxattr(_node, name) {
    const value = Object.hasOwn(XATTRS, name) ? XATTRS[name] : undefined;
    if (value === undefined) throw new ImgfuseError('missing', `no ${name}`, { errno: 61 });
    return value;
  }

  listxattr() {
    return Object.keys(XATTRS);
  }

  mustBeDisk(node) {
    if (node !== this.diskNode) throw new ImgfuseError('usage', 'is a directory', { errno: 21 });
  }

  mustBeOpen(node, handle) {
    this.mustBeDisk(node);
    if (handle !== 7) throw new ImgfuseError('usage', `no handle ${handle}`, { errno: 9 });
  }

  mustBeWritable() {
    if (this.readOnly) throw new ImgfuseError('read-only', 'the disk is read-only');
  }
}
