// Paths, small files and /proc as the commands need them: the one file of this folder that reads the host's file system.
// Image files are not touched here (src/host does that), and a path that may be a dead or our own mountpoint is never
// resolved itself: only its directory is, because looking at the mountpoint would ask its server. The kernel resolves (native):
// what Node does itself drops ".." together with the name before it, which may be a symbolic link.

import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  type Stats,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { hostPath, nameOfBytes } from '../bytes/names.ts';
import { ERRNO } from '../errors/index.ts';
import { absolutePath, canonicalMountpoint, withoutLinks } from '../fuse/mount-table.ts';

/** how long a full pipe is left to its reader before it is tried again */
const FULL_PIPE_MS = 5;
/** Of open(2), as /proc shows it; Node has no name for them. */
const O_CLOEXEC = 0o2000000;
const O_PATH = 0o10000000;

/** Entry type at a path; 'dead' is a mountpoint whose server is gone. */
export type PathKind = 'directory' | 'file' | 'symlink' | 'dead' | 'missing' | 'unreachable' | 'other';

/** What is at `path`, not following a symbolic link. */
export function pathKind(path: string): PathKind {
  let stats: Stats;
  try {
    stats = lstatSync(hostPath(path));
  } catch (error) {
    const errno = -((error as NodeJS.ErrnoException).errno ?? 0);
    if (errno === ERRNO.ENOTCONN) return 'dead';
    return errno === ERRNO.EACCES ? 'unreachable' : 'missing';
  }
  if (stats.isDirectory()) return 'directory';
  if (stats.isFile()) return 'file';
  return stats.isSymbolicLink() ? 'symlink' : 'other';
}

/** Absolute path as the mount table would have it; the absolute path as it is when its directory is missing. */
export function canonicalEntry(path: string): string {
  try {
    return canonicalMountpoint(path);
  } catch {
    return absolutePath(path);
  }
}

/**
 * Absolute path with every symbolic link resolved; the absolute path as it is when something on the way is missing. A URL
 * stays what it is.
 */
export function canonicalPath(path: string): string {
  if (/^https?:\/\//i.test(path)) return path;
  try {
    return withoutLinks(path);
  } catch {
    return absolutePath(path);
  }
}

export function linkTarget(path: string): string | null {
  try {
    return nameOfBytes(readlinkSync(hostPath(path), 'buffer'));
  } catch {
    return null;
  }
}

/** Names in a directory; none when it cannot be read. */
export function namesIn(directory: string): string[] {
  try {
    return readdirSync(hostPath(directory));
  } catch {
    return [];
  }
}

/** The processes that this one can see. */
export function processIds(): number[] {
  return namesIn('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** The short name of a process. */
export function processName(pid: number): string {
  return readText(`/proc/${pid}/comm`)?.trim() || '?';
}

/** Content of a small text file; null when it cannot be read. */
export function readText(path: string): string | null {
  try {
    return nameOfBytes(readFileSync(hostPath(path)));
  } catch {
    return null;
  }
}

/**
 * Content of a small text file that somebody else may have put there to be read: a regular file of that user, at most
 * `limit` bytes long and no symbolic link, unless it is one of /proc/PID/fd; null when it is anything else or cannot be read.
 */
export function readTextOf(uid: number, path: string, limit: number): string | null {
  const noFollow = /^\/proc\/\d+\/fd\/\d+$/.test(path) ? 0 : constants.O_NOFOLLOW;
  let descriptor: number | undefined;
  try {
    // O_NONBLOCK: opening a pipe would wait for its other end
    descriptor = openSync(hostPath(path), constants.O_RDONLY | noFollow | constants.O_NONBLOCK);
    const stats = fstatSync(descriptor);
    if (!stats.isFile() || stats.uid !== uid || stats.size > limit) return null;
    const bytes = Buffer.alloc(stats.size);
    return bytes.toString('utf8', 0, readSync(descriptor, bytes, 0, bytes.length, 0));
  } catch {
    return null;
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

/** The bytes of a file, at most `limit` of them; of standard input for "-". @throws what the host says */
export function readBytes(path: string, limit: number): Uint8Array {
  const descriptor = path === '-' ? 0 : openSync(hostPath(path), 'r');
  try {
    const bytes = new Uint8Array(limit);
    let length = 0;
    for (;;) {
      const got = readSync(descriptor, bytes, length, limit - length, null);
      length += got;
      if (got === 0 || length === limit) return bytes.slice(0, length);
    }
  } finally {
    if (descriptor !== 0) closeSync(descriptor);
  }
}

/** The bytes of this process's command line; null when they cannot be read. */
export function readCommandLine(): Uint8Array | null {
  try {
    return readFileSync('/proc/self/cmdline');
  } catch {
    return null;
  }
}

/** The terminal of the user, also where standard input and output lead elsewhere; null when there is none. */
export function openTerminal(): number | null {
  try {
    return openSync('/dev/tty', 'r+');
  } catch {
    return null;
  }
}

/** Descriptors from 3 on that a program started by this one would have open, too: whoever started this one left them open. */
export function inheritableDescriptors(): number[] {
  // Node opens its own with O_CLOEXEC, and sets it for those that it was started with up to 15
  const isKept = (descriptor: number): boolean => {
    const flags = /^flags:\s*([0-7]+)$/m.exec(readText(`/proc/self/fdinfo/${descriptor}`) ?? '')?.[1];
    return flags !== undefined && (Number.parseInt(flags, 8) & O_CLOEXEC) === 0;
  };
  return namesIn('/proc/self/fd')
    .map(Number)
    .filter((descriptor) => descriptor > 2 && isKept(descriptor));
}

/** The empty device, to stand for a file in a program that is started. */
export function openNothing(): number {
  return openSync('/dev/null', 'r');
}

/** A descriptor that keeps a file reachable through /proc/PID/fd after its name is gone; it can neither read nor write. */
export function holdFile(path: string): number {
  return openSync(hostPath(path), O_PATH | constants.O_NOFOLLOW);
}

export function closeDescriptor(descriptor: number): void {
  closeSync(descriptor);
}

/** Owner and type of a path, following no link; null when it is missing. */
export function ownerOf(path: string): { uid: number; mode: number; isDirectory: boolean } | null {
  try {
    const stats = lstatSync(hostPath(path));
    return { uid: stats.uid, mode: stats.mode & 0o7777, isDirectory: stats.isDirectory() };
  } catch {
    return null;
  }
}

/** What tells a file from every other one of this machine; null when it is missing. */
export function fileIdentity(path: string): string | null {
  try {
    // exact: inode numbers have 64 bits
    const { dev, ino } = statSync(hostPath(path), { bigint: true });
    return `${dev}-${ino}`;
  } catch {
    return null;
  }
}

/** Makes a directory only its owner can enter. @throws what the host says */
export function makePrivateDirectory(path: string): void {
  mkdirSync(hostPath(path), { recursive: true, mode: 0o700 });
}

/** Makes a directory only its owner can enter, under a name that nobody can have taken. @returns null where that fails */
export function makeUniqueDirectory(prefix: string): string | null {
  try {
    return mkdtempSync(prefix);
  } catch {
    return null;
  }
}

/**
 * Writes a file that appears with its whole content or not at all, whatever the umask. Others may write in its directory:
 * nobody knows the name it has before, and no link is followed. @throws what the host says; then nothing is left
 */
export function writeWhole(path: string, content: string, mode: number): void {
  const temporary = `${path}.${randomBytes(8).toString('hex')}`;
  const descriptor = openSync(hostPath(temporary), constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, mode);
  try {
    try {
      fchmodSync(descriptor, mode);
      writeFileSync(descriptor, content);
    } finally {
      closeSync(descriptor);
    }
    renameSync(hostPath(temporary), hostPath(path));
  } catch (error) {
    removeFile(temporary);
    throw error;
  }
}

/** Adds a line to a log; a full or vanished log never stops the writer. */
export function appendLine(path: string, line: string): void {
  try {
    appendFileSync(hostPath(path), `${line}\n`, { mode: 0o600 });
  } catch {}
}

/** A line on a descriptor (1, 2); a closed pipe never stops the writer. */
export function writeLine(descriptor: number, line: string): void {
  try {
    writeSync(descriptor, `${line}\n`);
  } catch {}
}

/** All of a text on a descriptor (1, 2), however slowly its reader takes it. @throws what the host says */
export function writeText(descriptor: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let written = 0; written < bytes.length; ) {
    try {
      written += writeSync(descriptor, bytes, written);
    } catch (error) {
      // whoever shares the pipe or terminal may have made it one that does not wait
      if (-((error as NodeJS.ErrnoException).errno ?? 0) !== ERRNO.EAGAIN) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FULL_PIPE_MS);
    }
  }
}

/** Removes a file; a missing one is fine. */
export function removeFile(path: string): void {
  try {
    unlinkSync(hostPath(path));
  } catch {}
}

/**
 * When a process started, in clock ticks since the machine did; null when there is no such process, or only its zombie.
 * Process id and start time together name one process for good.
 */
export function processStartTime(pid: number): number | null {
  const stat = readText(`/proc/${pid}/stat`);
  if (stat === null) return null;
  // the name stands in parentheses and may hold anything, so count from the last one: state is then field 0
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z' || fields[0] === 'X') return null;
  const start = Number(fields[19]);
  return Number.isSafeInteger(start) ? start : null;
}

/** The user that a process runs as; null when there is no such process. Its directory in /proc may be root's all the same. */
export function processOwner(pid: number): number | null {
  const uid = /^Uid:\t\d+\t(\d+)/m.exec(readText(`/proc/${pid}/status`) ?? '')?.[1];
  return uid === undefined ? null : Number(uid);
}

/** Names this process: the whole line for ps(1), the short name for what lists processes by theirs. */
export function nameProcess(line: string): void {
  process.title = line;
  try {
    writeFileSync('/proc/self/comm', 'imgfuse');
  } catch {}
}
