// prctl(2) for the calling thread.

import { checked, lazyFunction } from './library.ts';

const PR_SET_IO_FLUSHER = 57;

const prctlCall = lazyFunction('prctl', (_koffi, library) => {
  const prctl = library.func('int prctl(int option, ...)');
  return (option, argument) => prctl(option, 'ulong', argument, 'ulong', 0, 'ulong', 0, 'ulong', 0);
});

/**
 * Tells the kernel that the calling thread serves the I/O that memory reclaim may wait for (PR_SET_IO_FLUSHER).
 * @throws ImgfuseError permission without CAP_SYS_RESOURCE, io (EINVAL) before Linux 5.6
 */
export function setIoFlusher(): void {
  checked(prctlCall(PR_SET_IO_FLUSHER, 1), 'prctl(PR_SET_IO_FLUSHER)');
}
