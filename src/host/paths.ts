// Paths of image files: node:fs is imported by host/ only.

import * as fs from 'node:fs';
import { hostError } from './posix-file.ts';

/** Absolute path without symbolic links. Throws missing, permission. */
export function realPath(path: string): string {
  try {
    return fs.realpathSync(path);
  } catch (error) {
    throw hostError(error, path, 'realpath');
  }
}

/** Removes a file that was created here and turned out to be of no use. */
export function removeFile(path: string): void {
  fs.rmSync(path, { force: true });
}
