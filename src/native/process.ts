// Limits, descriptors and the end of this process.

import { writeU64LE } from '../bytes/endian.ts';
import { checked, lazyFunction } from './library.ts';

const RLIMIT_CORE = 4;
const F_SETFD = 2;
const FD_CLOEXEC = 1;

// struct rlimit (64-bit): 0 rlim_cur u64 | 8 rlim_max u64
const exitCall = lazyFunction('_exit', 'void _exit(int status)');
const setrlimitCall = lazyFunction('setrlimit', 'int setrlimit(int resource, const void *limit)');

const fcntlCall = lazyFunction('fcntl', 'int fcntl(int fd, int command, int argument)');

/** Programs that are started do not get this descriptor. @throws ImgfuseError usage when it is not open */
export function closeOnExec(descriptor: number): void {
  checked(fcntlCall(descriptor, F_SETFD, FD_CLOEXEC), 'fcntl(F_SETFD)');
}

/**
 * No core of this process is ever written, neither to a file nor to a program that collects them: the kernel takes a limit
 * of 1 byte as the wish for none at all, whereas 0 still feeds a pipe of core_pattern.
 * @throws ImgfuseError permission where the hard limit is 0 already and the user is an ordinary one: then there is no file, but
 * a program may still get a core
 */
export function forbidCoreDumps(): void {
  const limit = new Uint8Array(16);
  const view = new DataView(limit.buffer);
  writeU64LE(view, 0, 1);
  writeU64LE(view, 8, 1);
  checked(setrlimitCall(RLIMIT_CORE, limit), 'setrlimit(RLIMIT_CORE)');
}

/**
 * Ends this process with all its threads, wherever they are. Node's exit would wait for a thread that is inside a system call.
 * Does not return.
 * @throws ImgfuseError unsupported without koffi
 */
export function exitAtOnce(code: number): void {
  exitCall(code);
}
