// File handles, as NFS servers use them: name_to_handle_at(2) and open_by_handle_at(2), for tests.

import { createRequire } from 'node:module';

const koffi = createRequire(import.meta.url)('koffi');
const library = koffi.load(null);
const nameToHandle = library.func('int name_to_handle_at(int, const char *, void *, void *, int)');
const openByHandle = library.func('int open_by_handle_at(int, void *, int)');
const AT_FDCWD = -100;
const MAX_HANDLE_SZ = 128;

/** A struct file_handle of `path`. */
export function fileHandle(path: string): Buffer {
  const handle = Buffer.alloc(8 + MAX_HANDLE_SZ);
  handle.writeUInt32LE(MAX_HANDLE_SZ, 0);
  if (nameToHandle(AT_FDCWD, path, handle, Buffer.alloc(4), 0) !== 0)
    throw new Error(`no handle of ${path}: ${koffi.errno()}`);
  return handle;
}

/** @param mount descriptor of anything in the mount @returns a descriptor, or the negative errno */
export function openFileHandle(mount: number, handle: Buffer): number {
  const descriptor = openByHandle(mount, handle, 0);
  return descriptor < 0 ? -koffi.errno() : descriptor;
}
