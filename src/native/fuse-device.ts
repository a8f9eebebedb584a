// ioctl(2) and poll(2) on /dev/fuse.

import { checked, lazyFunction } from './library.ts';

/** _IOR(229, 0, uint32_t) */
const FUSE_DEV_IOC_CLONE = 0x8004e500;

/** of poll(2) */
const POLLIN = 1;

const pollCall = lazyFunction('poll', 'int poll(void *descriptors, ulong count, int timeout)');

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

/** struct pollfd: fd, events in the lower half of the next word, what is true of them in the upper one */
const asked = new Int32Array(2);

/**
 * Whether a request waits that no thread has received yet.
 * @param fd any descriptor of the connection
 * @throws ImgfuseError unsupported without koffi, io
 */
export function hasRequest(fd: number): boolean {
  asked[0] = fd;
  asked[1] = POLLIN;
  checked(pollCall(asked, 1, 0), 'poll');
  return ((asked[1]! >>> 16) & POLLIN) !== 0;
}
