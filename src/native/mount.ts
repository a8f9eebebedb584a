// mount(2) and umount2(2). Paths are passed as they are: absolute, and never of a mountpoint that this process serves
// from the calling thread alone.

import { nulTerminated } from '../bytes/names.ts';
import { checked, lazyFunction } from './library.ts';

/** Flags of mount(2), as in <linux/mount.h>. */
export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_SYNCHRONOUS = 16;
export const MS_DIRSYNC = 128;
export const MS_NOSYMFOLLOW = 256;
export const MS_NOATIME = 1024;
export const MS_NODIRATIME = 2048;
export const MS_STRICTATIME = 1 << 24;
export const MS_LAZYTIME = 1 << 25;

/** Flags of umount2(2), as in <sys/mount.h>. */
export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

const mountCall = lazyFunction(
  'mount',
  'int mount(const char *source, const char *target, const char *type, ulong flags, const char *data)',
);
const umount2Call = lazyFunction('umount2', 'int umount2(const char *target, int flags)');

/** @throws ImgfuseError permission, busy, missing, io */
export function mount(source: string, target: string, type: string, flags: number, data: string): void {
  checked(mountCall(nulTerminated(source), nulTerminated(target), type, flags, data), 'mount', target);
}

/** @throws ImgfuseError busy (in use), permission, missing; io with EINVAL if nothing is mounted */
export function umount2(target: string, flags: number): void {
  checked(umount2Call(nulTerminated(target), flags), 'umount', target);
}
