// The table of umount(8) and mount(8), /run/mount/utab, through their own library, which has its format and its lock.
// Pointers of the library are opaque values that only go back to it.

import { nulTerminated } from '../bytes/names.ts';
import { ImgfuseError } from '../errors/index.ts';
import { lazyFunction, type NativeFunction } from './library.ts';

const LIBRARY = 'libmount.so.1';

function libmountFunction(name: string, definition: string): NativeFunction {
  return lazyFunction(name, (koffi) => koffi.load(LIBRARY).func(definition));
}

const newFilesystem = libmountFunction('mnt_new_fs', 'void *mnt_new_fs()');
const setSource = libmountFunction('mnt_fs_set_source', 'int mnt_fs_set_source(void *fs, const char *source)');
const setTarget = libmountFunction('mnt_fs_set_target', 'int mnt_fs_set_target(void *fs, const char *target)');
const setType = libmountFunction('mnt_fs_set_fstype', 'int mnt_fs_set_fstype(void *fs, const char *type)');
const setRoot = libmountFunction('mnt_fs_set_root', 'int mnt_fs_set_root(void *fs, const char *root)');
const setOptions = libmountFunction('mnt_fs_set_options', 'int mnt_fs_set_options(void *fs, const char *options)');
const releaseFilesystem = libmountFunction('mnt_unref_fs', 'void mnt_unref_fs(void *fs)');
const newUpdate = libmountFunction('mnt_new_update', 'void *mnt_new_update()');
const setUpdate = libmountFunction(
  'mnt_update_set_fs',
  'int mnt_update_set_fs(void *update, ulong flags, const char *target, void *fs)',
);
const runUpdate = libmountFunction('mnt_update_table', 'int mnt_update_table(void *update, void *lock)');
const freeUpdate = libmountFunction('mnt_free_update', 'void mnt_free_update(void *update)');

/**
 * Notes a mount that was made without mount(8), with an option of the form x-NAME.
 * @throws ImgfuseError unsupported (no libmount), io
 */
export function addToMountTable(source: string, target: string, type: string, option: string): void {
  const filesystem: unknown = newFilesystem();
  try {
    succeed(setSource(filesystem, nulTerminated(source)), 'source');
    succeed(setTarget(filesystem, nulTerminated(target)), 'target');
    succeed(setType(filesystem, type), 'type');
    succeed(setRoot(filesystem, '/'), 'root');
    succeed(setOptions(filesystem, `rw,${option}`), 'options');
    update(null, filesystem);
  } finally {
    releaseFilesystem(filesystem);
  }
}

/** Forgets the mount at `target`; one that was never noted is fine. @throws ImgfuseError unsupported, io */
export function removeFromMountTable(target: string): void {
  update(target, null);
}

function update(target: string | null, filesystem: unknown): void {
  const change: unknown = newUpdate();
  try {
    // 1: there is nothing to write
    if (setUpdate(change, 0, target === null ? null : nulTerminated(target), filesystem) !== 1)
      succeed(runUpdate(change, null), 'table');
  } finally {
    freeUpdate(change);
  }
}

function succeed(result: number, part: string): void {
  if (result >= 0) return;
  throw new ImgfuseError('io', `/run/mount/utab cannot be changed (${part})`, {
    path: '/run/mount/utab',
    operation: 'libmount',
    errno: -result,
  });
}
