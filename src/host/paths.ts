// Paths of image files: node:fs is imported by host/ only.

import * as fs from 'node:fs';
import { hostPath } from '../bytes/names.ts';
import { withoutLinks } from './canonical-path.ts';
import { hostError } from './posix-file.ts';

/** Absolute path without symbolic links; ".." is what it is to the kernel. Throws missing, permission. */
export function realPath(path: string): string {
  try {
    return withoutLinks(path);
  } catch (error) {
    throw hostError(error, path, 'realpath');
  }
}

/** Whether the path leads to a regular file; it is not opened, because opening alone does something to some devices. */
export function isRegularFile(path: string): boolean {
  try {
    return fs.statSync(hostPath(path)).isFile();
  } catch (error) {
    throw hostError(error, path, 'stat');
  }
}

/** The device number of the block device that the path leads to, which is not opened; null when it leads to anything else. */
export function blockDeviceNumber(path: string): number | null {
  try {
    const stat = fs.statSync(hostPath(path));
    return stat.isBlockDevice() ? stat.rdev : null;
  } catch (error) {
    throw hostError(error, path, 'stat');
  }
}

/** Removes a file that was created here and turned out to be of no use. */
export function removeFile(path: string): void {
  fs.rmSync(hostPath(path), { force: true });
}
