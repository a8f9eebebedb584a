// A file that is being made. It has no name until it is complete (O_TMPFILE), so nothing is left of it if the process ends
// before, even by SIGKILL. If the host cannot do that, it has its name from the start, and discard() removes it. A temporary file
// never keeps a name.

import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { dirname, join } from 'node:path';
import { hostPath } from '../bytes/names.ts';
import { ERRNO, errnoOf } from '../errors/index.ts';
import { linkDescriptor, nativeAvailable } from '../native/index.ts';
import { removeFile } from './paths.ts';
import { hostError, PosixHostFile } from './posix-file.ts';

/** As in asm-generic/fcntl.h; Node has no name for it. */
const O_TMPFILE = 0o20000000 | fs.constants.O_DIRECTORY;
const MODE = 0o600;

export class NewFile {
  readonly file: PosixHostFile;
  private hasName: boolean;

  private constructor(file: PosixHostFile, hasName: boolean) {
    this.file = file;
    this.hasName = hasName;
  }

  /** An empty file for `path`, where none may be. Throws usage (there is one), missing (no directory), permission, no-space. */
  static create(path: string): NewFile {
    const descriptor = openUnnamed(path);
    if (descriptor === null) return new NewFile(PosixHostFile.create(path, false), true);
    return new NewFile(PosixHostFile.attach(path, descriptor, false), false);
  }

  /** An empty file in a directory; it has no name when this returns. Throws missing, permission, no-space. */
  static temporary(directory: string): NewFile {
    const path = join(directory, `imgfuse-${process.pid}-${randomBytes(6).toString('hex')}`);
    const made = NewFile.create(path);
    made.discard();
    return made;
  }

  /** Gives the file its name, durably. Throws usage: somebody made one of this name meanwhile. */
  publish(): void {
    this.giveName();
    syncDirectory(dirname(this.file.path));
  }

  private giveName(): void {
    if (this.hasName) return;
    const { descriptor, path } = this.file;
    try {
      linkDescriptor(descriptor, path);
    } catch (error) {
      if (errnoOf(error) !== ERRNO.EEXIST) throw error;
      throw hostError({ code: 'EEXIST', errno: -ERRNO.EEXIST }, path, 'create');
    }
    this.hasName = true;
  }

  /** Leaves nothing of the file, but does not close it. */
  discard(): void {
    if (this.hasName) removeFile(this.file.path);
    this.hasName = false;
  }
}

/** What was made in a directory is there after a power cut. Some file systems cannot do that for a directory. */
function syncDirectory(path: string): void {
  let descriptor: number;
  try {
    descriptor = fs.openSync(hostPath(path), fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  } catch {
    // a directory that may be written and not be read
    return;
  }
  try {
    fs.fsyncSync(descriptor);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw hostError(error, path, 'fsync');
  } finally {
    fs.closeSync(descriptor);
  }
}

/** A descriptor of a file without a name in the directory of `path`; null if the host has none, for an ordinary creation. */
function openUnnamed(path: string): number | null {
  if (!nativeAvailable() || path.endsWith('/')) return null;
  let descriptor: number;
  try {
    // refuse a name that is taken before the work is done
    if (fs.lstatSync(hostPath(path), { throwIfNoEntry: false }) !== undefined) return null;
    descriptor = fs.openSync(hostPath(dirname(path)), O_TMPFILE | fs.constants.O_RDWR, MODE);
  } catch {
    return null;
  }
  // without /proc it would never get a name
  if (fs.existsSync(`/proc/self/fd/${descriptor}`)) return descriptor;
  fs.closeSync(descriptor);
  return null;
}
