// PosixHostFile: an image file on the host through node:fs and, for what Node lacks, the calls of src/native.
// Invariant: no call reaches the kernel with an offset that is not a safe integer >= 0 (see host-file.ts).

import * as fs from 'node:fs';
import { dirname } from 'node:path';
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  SEEK_DATA,
  SEEK_HOLE,
} from '../bytes/linux.ts';
import { hostPath } from '../bytes/names.ts';
import { type HostOffset, hex, hostOffset, isSafeOffset, roundUp } from '../bytes/offsets.ts';
import { offerProcessor } from '../concurrency/turns.ts';
import { ERRNO, type ErrorKind, ImgfuseError } from '../errors/index.ts';
import { errnoName, fallocate, lseek, lseekOrNone, willNeed } from '../native/index.ts';
import { type FileIdentity, identityOf } from './file-identity.ts';
import { canPunchHoles } from './hole-support.ts';
import type { HostFile } from './host-file.ts';
import type { SharedFile } from './shared-file.ts';

const ZEROS = new Uint8Array(1024 * 1024);
/** A multiple of the logical blocks of every block device. */
const LARGEST_BLOCK = 4096;
/** Of a hole, in one system call: the kernel keeps writers of the file out for that long, 0.2 s for each GiB of a full file on tmpfs. */
const LARGEST_HOLE = 256 * 1024 * 1024;

export class PosixHostFile implements HostFile {
  readonly path: string;
  readonly readOnly: boolean;
  readonly descriptor: number;
  /** modes of fallocate(2) that the host does not have; tmpfs punches holes and zeros no ranges */
  private readonly refusedModes = new Set<number>();
  private readonly companions: HostFile[] = [];
  private holeSupport: boolean | null = null;

  private constructor(path: string, descriptor: number, readOnly: boolean) {
    this.path = path;
    this.descriptor = descriptor;
    this.readOnly = readOnly;
  }

  /** Opens an existing regular file or block device. Throws missing, permission, read-only, usage. */
  static open(path: string, readOnly: boolean): PosixHostFile {
    return PosixHostFile.openName(path, path, readOnly);
  }

  /** Like open(), for a name that did not come from the user: no block device. */
  static openRegular(path: string, readOnly: boolean): PosixHostFile {
    return PosixHostFile.openName(path, path, readOnly, false);
  }

  /** Like openRegular(), read-only, for a name that must not be a symbolic link. @param path for messages */
  static openNoLink(name: string, path: string): PosixHostFile {
    return PosixHostFile.openName(name, path, true, false, fs.constants.O_NOFOLLOW);
  }

  /** Opens a block device by its name, if that still leads to the device with this number. */
  static openDevice(path: string, readOnly: boolean, number: number): PosixHostFile {
    const file = PosixHostFile.open(path, readOnly);
    const stat = fs.fstatSync(file.descriptor);
    if (stat.isBlockDevice() && stat.rdev === number) return file;
    file.close();
    throw new ImgfuseError('permission', `${path} is not the block device that it was a moment ago; try again`, {
      path,
    });
  }

  /** Opens the file of a descriptor of this process once more, with an open file description of its own. */
  static reopen(path: string, descriptor: number, readOnly: boolean): PosixHostFile {
    return PosixHostFile.openName(`/proc/self/fd/${descriptor}`, path, readOnly);
  }

  /** @param path for messages */
  private static openName(name: string, path: string, readOnly: boolean, mayBeDevice = true, more = 0): PosixHostFile {
    // O_NONBLOCK: opening a FIFO must not wait for its other end; it means nothing to files
    const flags = (readOnly ? fs.constants.O_RDONLY : fs.constants.O_RDWR) | fs.constants.O_NONBLOCK | more;
    let descriptor: number;
    try {
      descriptor = fs.openSync(hostPath(name), flags);
    } catch (error) {
      // a socket, or a device without a driver
      if ((error as NodeJS.ErrnoException).code === 'ENXIO') throw noImage(path, mayBeDevice);
      throw hostError(error, path, 'open');
    }
    const stat = fs.fstatSync(descriptor);
    if (!stat.isFile() && !(mayBeDevice && stat.isBlockDevice())) {
      fs.closeSync(descriptor);
      throw noImage(path, mayBeDevice);
    }
    return new PosixHostFile(path, descriptor, readOnly);
  }

  /** Creates an empty file; an existing one is refused unless `overwrite`. Mode 0600 less the umask. */
  static create(path: string, overwrite: boolean): PosixHostFile {
    const { O_RDWR, O_CREAT, O_EXCL, O_TRUNC } = fs.constants;
    try {
      const descriptor = fs.openSync(hostPath(path), O_RDWR | O_CREAT | (overwrite ? O_TRUNC : O_EXCL), 0o600);
      return new PosixHostFile(path, descriptor, false);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const directory = dirname(path);
      if (code === 'EROFS') {
        const message = `${path} cannot be made: the file system of ${directory} is read-only`;
        throw new ImgfuseError('read-only', message, { path, operation: 'create', errno: ERRNO.EROFS });
      }
      if (code !== 'ENOENT' && code !== 'ENOTDIR') throw hostError(error, path, 'create');
      const what = code === 'ENOENT' ? 'does not exist' : 'is no directory';
      throw new ImgfuseError('missing', `${path} cannot be made: ${directory} ${what}`, { path, operation: 'create' });
    }
  }

  /** The same open file in another thread: descriptors belong to the process. */
  static attach(path: string, descriptor: number, readOnly: boolean): PosixHostFile {
    return new PosixHostFile(path, descriptor, readOnly);
  }

  get isDevice(): boolean {
    return fs.fstatSync(this.descriptor).isBlockDevice();
  }

  size(): number {
    const stat = fs.fstatSync(this.descriptor);
    if (stat.isFile()) return stat.size;
    return lseek(this.descriptor, 0, 2);
  }

  allocatedBytes(): number {
    return fs.fstatSync(this.descriptor).blocks * 512;
  }

  modifiedMs(): number | null {
    const stat = fs.fstatSync(this.descriptor);
    return stat.isFile() ? stat.mtimeMs : null;
  }

  identity(): FileIdentity {
    return identityOf(fs.fstatSync(this.descriptor, { bigint: true }));
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    this.checkRange('read', offset, length);
    let done = 0;
    while (done < length) {
      let count: number;
      try {
        count = fs.readSync(this.descriptor, target, targetOffset + done, length - done, offset + done);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EINTR') continue;
        throw hostError(error, this.path, 'read', offset + done, done);
      }
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: HostOffset): void {
    this.checkRange('write', offset, length);
    let done = 0;
    while (done < length) {
      try {
        done += fs.writeSync(this.descriptor, source, sourceOffset + done, length - done, offset + done);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EINTR') continue;
        throw hostError(error, this.path, 'write', offset + done, done);
      }
    }
  }

  sync(): void {
    try {
      fs.fdatasyncSync(this.descriptor);
    } catch (error) {
      // io even for ENOSPC: bytes that the host had accepted are lost, and free space does not bring them back
      const code = (error as NodeJS.ErrnoException).code ?? String(error);
      const context = { path: this.path, operation: 'fdatasync', errno: ERRNO.EIO };
      throw new ImgfuseError('io', `${this.path} fdatasync failed (${code})`, context);
    }
  }

  truncate(length: number): void {
    this.checkRange('truncate', length, 0);
    if (this.isDevice) {
      const context = { path: this.path, offset: length, operation: 'truncate' };
      throw new ImgfuseError('unsupported', `${this.path} is a block device, whose length stays`, context);
    }
    try {
      fs.ftruncateSync(this.descriptor, length);
    } catch (error) {
      throw hostError(error, this.path, 'truncate', length);
    }
  }

  punchHole(offset: HostOffset, length: number): void {
    this.deallocate('punch-hole', FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
  }

  punchesHoles(): boolean {
    this.holeSupport ??= !this.readOnly && canPunchHoles(this.descriptor);
    return this.holeSupport;
  }

  zeroRange(offset: HostOffset, length: number): void {
    this.deallocate('zero-range', FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
  }

  allocateRange(offset: HostOffset, length: number): void {
    this.checkRange('allocate', offset, length);
    try {
      fallocate(this.descriptor, 0, offset, length);
    } catch (error) {
      throw namedError(error, this.path, 'fallocate', offset);
    }
  }

  prefetch(offset: HostOffset, length: number): void {
    this.checkRange('prefetch', offset, length);
    try {
      willNeed(this.descriptor, offset, length);
    } catch {
      // without the C library nothing is fetched ahead, and the reads take their time
    }
  }

  seekData(offset: HostOffset): number {
    return this.seek(offset, SEEK_DATA);
  }

  seekHole(offset: HostOffset): number {
    return this.seek(offset, SEEK_HOLE);
  }

  share(): SharedFile {
    const { path, descriptor, readOnly } = this;
    return { kind: 'descriptor', path, descriptor, readOnly };
  }

  /** Closes `other` when this file is closed. */
  closeTogetherWith(other: HostFile): void {
    this.companions.push(other);
  }

  close(): void {
    try {
      fs.closeSync(this.descriptor);
    } catch (error) {
      throw hostError(error, this.path, 'close');
    } finally {
      for (const other of this.companions.splice(0)) other.close();
    }
  }

  private seek(offset: HostOffset, whence: number): number {
    this.checkRange('seek', offset, 0);
    try {
      return lseekOrNone(this.descriptor, offset, whence) ?? this.size();
    } catch (error) {
      const kind = error instanceof ImgfuseError ? error.context.errno : undefined;
      // no SEEK_DATA in the file system or no koffi: all of it is data
      if (kind === ERRNO.EINVAL || (error as ImgfuseError).kind === 'unsupported') {
        return whence === SEEK_DATA ? offset : this.size();
      }
      throw namedError(error, this.path, 'lseek', offset);
    }
  }

  /** One range operation of fallocate(2), or written zeros if the host has none; never beyond the end of the file. */
  private deallocate(operation: string, mode: number, offset: HostOffset, length: number): void {
    this.checkRange(operation, offset, length);
    const end = Math.min(offset + length, this.size());
    if (end <= offset) return;
    if (!this.refusedModes.has(mode)) {
      try {
        for (let at = offset as number; at < end; at += LARGEST_HOLE) {
          if (at > offset) offerProcessor();
          fallocate(this.descriptor, mode, at, Math.min(LARGEST_HOLE, end - at));
        }
        return;
      } catch (error) {
        if (!(error instanceof ImgfuseError)) throw error;
        if (error.context.errno === ERRNO.EINVAL) {
          this.deallocateBlocks(operation, mode, offset, end);
          return;
        }
        if (error.kind !== 'unsupported') throw namedError(error, this.path, operation, offset);
        this.refusedModes.add(mode);
      }
    }
    this.writeZeros(offset, end);
  }

  /** Block devices take whole blocks only: the rest of [offset, end) is written. */
  private deallocateBlocks(operation: string, mode: number, offset: number, end: number): void {
    const [first, last] = [roundUp(offset, LARGEST_BLOCK), end - (end % LARGEST_BLOCK)];
    if (first >= last || (first === offset && last === end)) {
      this.writeZeros(offset, end);
      return;
    }
    this.writeZeros(offset, first);
    this.deallocate(operation, mode, hostOffset(first), last - first);
    this.writeZeros(last, end);
  }

  private writeZeros(offset: number, end: number): void {
    for (let at = offset; at < end; at += ZEROS.length) {
      this.write(ZEROS, 0, Math.min(ZEROS.length, end - at), hostOffset(at));
    }
  }

  private checkRange(operation: string, offset: number, length: number): void {
    if (isSafeOffset(offset) && isSafeOffset(length) && Number.isSafeInteger(offset + length)) return;
    throw new ImgfuseError(
      'usage',
      `${operation} of ${this.path} at offset ${offset}, length ${length}: not a valid range`,
      {
        path: this.path,
        operation,
      },
    );
  }
}

function noImage(path: string, mayBeDevice: boolean): ImgfuseError {
  const what = mayBeDevice ? 'no regular file and no block device' : 'no regular file';
  return new ImgfuseError('usage', `${path} is ${what}, so it cannot be a disk image`, { path });
}

const CODE_TO_KIND: Readonly<Record<string, readonly [ErrorKind, string]>> = {
  ENOENT: ['missing', 'does not exist'],
  ENOTDIR: ['missing', 'does not exist: a part of the path is no directory'],
  EACCES: ['permission', 'is not accessible to this user'],
  EPERM: ['permission', 'may not be opened this way'],
  EROFS: ['read-only', 'is on a read-only file system, where it cannot be changed; mount -o ro reads it'],
  ENOSPC: ['no-space', 'cannot grow: the host file system is full'],
  EDQUOT: ['no-space', 'cannot grow: the disk quota is used up'],
  EFBIG: ['limit', 'would become larger than its file system allows'],
  EEXIST: ['usage', 'exists already; it is not overwritten'],
  EISDIR: ['usage', 'is a directory, not a disk image'],
  EMFILE: ['io', 'cannot be opened: this process has as many files open as it may; raise the limit (ulimit -n)'],
  ELOOP: ['usage', 'leads to no file: its symbolic links go round in a circle'],
  ENAMETOOLONG: ['usage', 'is too long for the name of a file'],
  ETXTBSY: ['busy', 'is in use as an executable or swap file'],
};

/** A failed system call of native/, which knows no path, with the file in its sentence; its kind stays. */
function namedError(error: unknown, path: string, operation: string, offset: number): unknown {
  if (!(error instanceof ImgfuseError)) return error;
  const { kind, message, context } = error;
  const { errno } = context;
  if (errno !== undefined && (kind === 'no-space' || kind === 'limit')) {
    return hostError({ code: errnoName(errno), errno: -errno }, path, operation, offset);
  }
  return new ImgfuseError(kind, `${path}: ${message}`, { ...context, path, offset });
}

/** A failed node:fs call as an ImgfuseError whose sentence names the file and, for transfers, the offset. */
export function hostError(
  error: unknown,
  path: string,
  operation: string,
  offset?: number,
  transferred?: number,
): ImgfuseError {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  const [kind, sentence] = CODE_TO_KIND[code] ?? (['io', `${operation} failed (${code || String(error)})`] as const);
  const errno = -((error as NodeJS.ErrnoException).errno ?? -ERRNO.EIO);
  const where = offset === undefined ? '' : ` at offset ${hex(offset)}`;
  return new ImgfuseError(kind, `${path} ${sentence}${where}`, {
    path,
    operation,
    errno,
    ...(offset === undefined ? {} : { offset }),
    ...(transferred === undefined ? {} : { transferred }),
  });
}
