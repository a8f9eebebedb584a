// Small files and directories that are not images: records, logs, key files, /proc and /sys. Functions that read answer null or
// nothing for a path that is missing or cannot be read; functions that make or replace a file throw.

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
  rmdirSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { hostPath, nameOfBytes } from '../bytes/names.ts';

export function linkTarget(path: string): string | null {
  try {
    return nameOfBytes(readlinkSync(hostPath(path), 'buffer'));
  } catch {
    return null;
  }
}

/** Names in a directory; none if it cannot be read. */
export function namesIn(directory: string): string[] {
  try {
    return readdirSync(hostPath(directory));
  } catch {
    return [];
  }
}

/** Content of a small text file; null if it cannot be read. */
export function readText(path: string): string | null {
  try {
    return nameOfBytes(readFileSync(hostPath(path)));
  } catch {
    return null;
  }
}

/**
 * Content of a small text file in a place where other users can put files: it must be a regular file of that user, at most
 * `limit` bytes long, and not a symbolic link unless it is one of /proc/PID/fd. Null if it is anything else or cannot be read.
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

/** Owner and type of a path, following no link; null if it is missing. */
export function ownerOf(path: string): { uid: number; mode: number; isDirectory: boolean } | null {
  try {
    const stats = lstatSync(hostPath(path));
    return { uid: stats.uid, mode: stats.mode & 0o7777, isDirectory: stats.isDirectory() };
  } catch {
    return null;
  }
}

/** Device and inode, which tell a file from every other one of this machine; null if it is missing. */
export function fileIdentity(path: string): string | null {
  try {
    // exact: inode numbers have 64 bits
    const { dev, ino } = statSync(hostPath(path), { bigint: true });
    return `${dev}-${ino}`;
  } catch {
    return null;
  }
}

/** Makes a directory that only its owner can enter. @throws what the host says */
export function makePrivateDirectory(path: string): void {
  mkdirSync(hostPath(path), { recursive: true, mode: 0o700 });
}

/** Makes a directory that only its owner can enter, under a new name. @returns null if that fails */
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

/** Removes a file; a missing one is fine. */
export function removeFile(path: string): void {
  try {
    unlinkSync(hostPath(path));
  } catch {}
}

/** Removes an empty directory. A missing one is fine; one that is not empty, or a mountpoint, stays. */
export function removeDirectory(path: string): void {
  try {
    rmdirSync(hostPath(path));
  } catch {}
}
