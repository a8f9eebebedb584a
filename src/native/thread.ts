// prctl(2) and sched_yield(2) for the calling thread.

import { checked, lazyFunction } from './library.ts';

const PR_SET_IO_FLUSHER = 57;

const yieldCall = lazyFunction('sched_yield', 'int sched_yield()');

const prctlCall = lazyFunction('prctl', (_koffi, library) => {
  const prctl = library.func('int prctl(int option, ...)');
  return (option, argument) => prctl(option, 'ulong', argument, 'ulong', 0, 'ulong', 0, 'ulong', 0);
});

/** Threads that wait for the processor of the calling thread run before it goes on. @throws ImgfuseError unsupported without koffi */
export function yieldProcessor(): void {
  checked(yieldCall(), 'sched_yield');
}

/**
 * Tells the kernel that the calling thread serves the I/O that memory reclaim may wait for (PR_SET_IO_FLUSHER).
 * @throws ImgfuseError permission without CAP_SYS_RESOURCE, io (EINVAL) before Linux 5.6
 */
export function setIoFlusher(): void {
  checked(prctlCall(PR_SET_IO_FLUSHER, 1), 'prctl(PR_SET_IO_FLUSHER)');
}
