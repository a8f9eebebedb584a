// The pid file of a mount, if the user wants one. A mount overwrites the pid file of an earlier mount, and removes only its own.

import { ImgfuseError } from '../errors/index.ts';
import { pathKind } from '../host/canonical-path.ts';
import { readText, removeFile, writeWhole } from '../host/small-files.ts';

/** @throws ImgfuseError usage, io */
export function writePidFile(path: string): void {
  if (!['file', 'missing', 'unreachable'].includes(pathKind(path))) {
    throw new ImgfuseError('usage', `the pid file ${path} cannot be written: it is no regular file`, { path });
  }
  try {
    // all users may read it, whatever the umask
    writeWhole(path, `${process.pid}\n`, 0o644);
  } catch (cause) {
    throw new ImgfuseError('io', `the pid file ${path} cannot be written`, { path }, cause);
  }
}

/** Removes the pid file, unless another mount has written it since. */
export function removePidFile(path: string): void {
  if (pathKind(path) === 'file' && readText(path) === `${process.pid}\n`) removeFile(path);
}
