// ioctl(2) on /dev/fuse.

import { checked, lazyFunction } from './library.ts';

/** _IOR(229, 0, uint32_t) */
const FUSE_DEV_IOC_CLONE = 0x8004e500;

const ioctlCall = lazyFunction('ioctl', (koffi, library) => {
  const ioctl = library.func('int ioctl(int fd, ulong request, ...)');
  const pointer = koffi.pointer('void');
  return (fd, request, argument) => ioctl(fd, request, pointer, argument);
});

/**
 * Attaches a freshly opened /dev/fuse to the connection of `sessionFd`: it gets its own queue of requests in progress.
 * @throws ImgfuseError io (EINVAL: the kernel cannot)
 */
export function attachFuseDevice(fd: number, sessionFd: number): void {
  checked(ioctlCall(fd, FUSE_DEV_IOC_CLONE, new Uint32Array([sessionFd])), 'ioctl(FUSE_DEV_IOC_CLONE)');
}
