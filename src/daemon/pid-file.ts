// The pid file of a mount, where the user wants one. It is taken over from a mount before, and taken away by its own mount only.

import { ImgfuseError } from '../errors/index.ts';
import { pathKind } from '../host/canonical-path.ts';
import { readText, removeFile, writeWhole } from '../host/small-files.ts';

/** @throws ImgfuseError usage, io */
export function writePidFile(path: string): void {
  if (!['file', 'missing', 'unreachable'].includes(pathKind(path))) {
    throw new ImgfuseError('usage', `the pid file ${path} cannot be written: it is no regular file`, { path });
  }
  try {
    // others may read it, whatever the umask
    writeWhole(path, `${process.pid}\n`, 0o644);
  } catch (cause) {
    throw new ImgfuseError('io', `the pid file ${path} cannot be written`, { path }, cause);
  }
}

/** Leaves what another mount has written there since. */
export function removePidFile(path: string): void {
  if (pathKind(path) === 'file' && readText(path) === `${process.pid}\n`) removeFile(path);
}
