// Extended attributes, which Node cannot read: two system calls for tests.

import { createRequire } from 'node:module';

const library = createRequire(import.meta.url)('koffi').load(null);
const getxattrCall = library.func('int64 getxattr(const char *, const char *, void *, size_t)');
const listxattrCall = library.func('int64 listxattr(const char *, void *, size_t)');

/** Undefined where there is no such attribute. */
export function getxattr(path: string, name: string): Buffer | undefined {
  const buffer = Buffer.alloc(65536);
  const length: number = getxattrCall(path, name, buffer, buffer.length);
  return length < 0 ? undefined : buffer.subarray(0, length);
}

export function getxattrSize(path: string, name: string): number {
  return getxattrCall(path, name, null, 0);
}

export function listxattr(path: string): string[] {
  const buffer = Buffer.alloc(65536);
  const length: number = listxattrCall(path, buffer, buffer.length);
  if (length < 0) throw new Error(`listxattr of ${path} failed`);
  return buffer.toString('utf8', 0, length).split('\0').slice(0, -1);
}
