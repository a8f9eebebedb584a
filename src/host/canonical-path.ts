// Paths as the kernel and its mount table have them. A path that may be a dead or our own mountpoint is never resolved itself: only
// its directory is, because looking at the mountpoint would ask its server. The kernel resolves (native): Node's own function
// drops ".." together with the name before it, which may be a symbolic link.

import * as fs from 'node:fs';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { hostPath, nameOfBytes } from '../bytes/names.ts';
import { ERRNO } from '../errors/index.ts';

/** Entry type at a path; 'dead' is a mountpoint whose server is gone. */
export type PathKind = 'directory' | 'file' | 'symlink' | 'dead' | 'missing' | 'unreachable' | 'other';

/** What is at `path`, not following a symbolic link. */
export function pathKind(path: string): PathKind {
  let stats: fs.Stats;
  try {
    stats = fs.lstatSync(hostPath(path));
  } catch (error) {
    const errno = -((error as NodeJS.ErrnoException).errno ?? 0);
    if (errno === ERRNO.ENOTCONN) return 'dead';
    return errno === ERRNO.EACCES ? 'unreachable' : 'missing';
  }
  if (stats.isDirectory()) return 'directory';
  if (stats.isFile()) return 'file';
  return stats.isSymbolicLink() ? 'symlink' : 'other';
}

/** Absolute path as the mount table would have it; the unresolved absolute path if its directory is missing. */
export function canonicalEntry(path: string): string {
  try {
    return entryPath(path);
  } catch {
    return absolutePath(path);
  }
}

/**
 * Absolute path with every symbolic link resolved; the unresolved absolute path if a part of it is missing. A URL stays as it
 * is.
 */
export function canonicalPath(path: string): string {
  if (/^https?:\/\//i.test(path)) return path;
  try {
    return withoutLinks(path);
  } catch {
    return absolutePath(path);
  }
}

/**
 * Absolute path of an entry: symbolic links of its directory resolved, the last component left alone.
 * @throws what the host says
 */
export function entryPath(path: string): string {
  const name = basename(path);
  // native: ".." after a symbolic link is what it is to the kernel
  if (name === '' || name === '.' || name === '..') return withoutLinks(path);
  return join(withoutLinks(dirname(path)), name);
}

/** Absolute path with every symbolic link resolved by the kernel. @throws what the host says */
export function withoutLinks(path: string): string {
  return nameOfBytes(fs.realpathSync.native(hostPath(path), 'buffer'));
}

/** Absolute path; nothing is looked up. */
export function absolutePath(path: string): string {
  return isAbsolute(path) ? resolve(path) : resolve(workingDirectory(), path);
}

/** The working directory. Node replaces what is not UTF-8 in it; the kernel's link has the bytes. */
export function workingDirectory(): string {
  const path = process.cwd();
  return path.includes('\ufffd') ? nameOfBytes(fs.readlinkSync('/proc/self/cwd', 'buffer')) : path;
}
