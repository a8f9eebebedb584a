// Paths of image files: node:fs is imported by host/ only.

import * as fs from 'node:fs';
import { dirname, normalize } from 'node:path';
import { hostPath, nameOfBytes } from '../bytes/names.ts';
import { withoutLinks } from './canonical-path.ts';
import { type FileIdentity, identityOf } from './file-identity.ts';
import { hostError } from './posix-file.ts';

/** Absolute path without symbolic links, resolved as the kernel does. Throws missing, permission. */
export function realPath(path: string): string {
  try {
    return withoutLinks(path);
  } catch (error) {
    throw hostError(error, path, 'realpath');
  }
}

/** The same of a path that leads nowhere: its directory without symbolic links, as far as there is one, then the rest as it is. */
export function realPathSoFar(path: string): string {
  for (let directory = dirname(path); directory !== '/'; directory = dirname(directory)) {
    try {
      return normalize(withoutLinks(directory) + path.slice(directory.length));
    } catch {
      // nor is this one there
    }
  }
  return normalize(path);
}

/** Whether the path leads to a regular file; it is not opened, because opening alone has effects on some devices. */
export function isRegularFile(path: string): boolean {
  try {
    return fs.statSync(hostPath(path)).isFile();
  } catch (error) {
    throw hostError(error, path, 'stat');
  }
}

/** The number of the block device that the path leads to, which is not opened; null if it leads to anything else. */
export function blockDeviceNumber(path: string): number | null {
  try {
    const stat = fs.statSync(hostPath(path));
    return stat.isBlockDevice() ? stat.rdev : null;
  } catch (error) {
    throw hostError(error, path, 'stat');
  }
}

/** What the path leads to, as a sentence says it; it is not opened. */
export function fileKind(path: string): 'file' | 'directory' | 'block device' | 'special file' | 'missing' {
  try {
    const stat = fs.statSync(hostPath(path), { throwIfNoEntry: false });
    if (stat === undefined) return 'missing';
    if (stat.isFile()) return 'file';
    if (stat.isDirectory()) return 'directory';
    return stat.isBlockDevice() ? 'block device' : 'special file';
  } catch (error) {
    throw hostError(error, path, 'stat');
  }
}

/** Which file the path leads to; null if it leads to none. */
export function identityAt(path: string): FileIdentity | null {
  try {
    return identityOf(fs.statSync(hostPath(path), { bigint: true }));
  } catch {
    return null;
  }
}

/**
 * Regular files in a directory whose names end so, in whatever case; links are none. @param most that are returned
 * @returns their paths; none if the directory cannot be read
 */
export function regularFilesIn(directory: string, suffix: string, most: number): string[] {
  let entries: fs.Dirent<Buffer>[];
  try {
    entries = fs.readdirSync(hostPath(directory), { encoding: 'buffer', withFileTypes: true });
  } catch {
    return [];
  }
  const names = entries.filter((entry) => entry.isFile()).map(({ name }) => nameOfBytes(name));
  const chosen = names.filter((name) => name.toLowerCase().endsWith(suffix)).sort();
  return chosen.slice(0, most).map((name) => `${directory === '/' ? '' : directory}/${name}`);
}

/** Removes a file that was created here and is not needed. */
export function removeFile(path: string): void {
  fs.rmSync(hostPath(path), { force: true });
}
