// Gives a name to a file that has none.

import { nulTerminated } from '../bytes/names.ts';
import { checked, lazyFunction } from './library.ts';

const linkatCall = lazyFunction(
  'linkat',
  'int linkat(int olddirfd, const char *oldpath, int newdirfd, const char *newpath, int flags)',
);
const AT_FDCWD = -100;
const AT_SYMLINK_FOLLOW = 0x400;

/** Gives an open file a name, even one opened with O_TMPFILE. Throws io (EEXIST: the name is taken), permission, no-space. */
export function linkDescriptor(fd: number, path: string): void {
  const link = linkatCall(AT_FDCWD, `/proc/self/fd/${fd}`, AT_FDCWD, nulTerminated(path), AT_SYMLINK_FOLLOW);
  checked(link, 'linkat', path);
}
