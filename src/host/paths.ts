// Paths of image files: node:fs is imported by host/ only.

import * as fs from 'node:fs';
import { hostError } from './posix-file.ts';

/** Absolute path without symbolic links; ".." is what it is to the kernel. Throws missing, permission. */
export function realPath(path: string): string {
  try {
    return fs.realpathSync.native(path);
  } catch (error) {
    throw hostError(error, path, 'realpath');
  }
}

/** Whether the path leads to a regular file; it is not opened, because opening alone does something to some devices. */
export function isRegularFile(path: string): boolean {
  try {
    return fs.statSync(path).isFile();
  } catch (error) {
    throw hostError(error, path, 'stat');
  }
}

/** Removes a file that was created here and turned out to be of no use. */
export function removeFile(path: string): void {
  fs.rmSync(path, { force: true });
}
