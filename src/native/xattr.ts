// Extended attributes of an open file.

import { checked, lazyFunction } from './library.ts';

const fgetxattrCall = lazyFunction(
  'fgetxattr',
  'int64 fgetxattr(int fd, const char *name, _Out_ uint8_t *value, size_t size)',
);
const fsetxattrCall = lazyFunction(
  'fsetxattr',
  'int fsetxattr(int fd, const char *name, const uint8_t *value, size_t size, int flags)',
);
const MAX_BYTES = 256;

/** Throws io (ENODATA if there is no such attribute, ERANGE above 256 bytes), unsupported. */
export function getAttribute(fd: number, name: string): Uint8Array {
  const value = new Uint8Array(MAX_BYTES);
  return value.subarray(0, checked(fgetxattrCall(fd, name, value, value.length), 'fgetxattr', name));
}

/** Throws unsupported (the file system has none), permission, no-space, io. */
export function setAttribute(fd: number, name: string, value: Uint8Array): void {
  checked(fsetxattrCall(fd, name, value, value.length, 0), 'fsetxattr', name);
}
