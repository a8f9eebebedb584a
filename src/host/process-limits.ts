// Limits of this process (ulimit) that may be too low for a mount. They are checked before anything is opened: V8 ends the
// process without a word if it gets no address space, and a thread that cannot load its modules ends the mount.

import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { inheritableDescriptors } from './descriptors.ts';
import { readText } from './small-files.ts';

const MIB = 2 ** 20;
/** Address space of Node with one thread and the shared state of an image, and of each further thread; measured and rounded up. */
const BASE_BYTES = 1024 * MIB;
const THREAD_BYTES = 256 * MIB;
/** Files that are open while the program is loaded, and while a thread loads its modules. */
const BASE_FILES = 64;
const THREAD_FILES = 32;

/** The soft limit of a resource by its name in /proc/self/limits; infinity if there is none. Node raises that of open files. */
function limitOf(resource: 'Max address space' | 'Max open files'): number {
  const value = new RegExp(`^${resource} +(\\d+)`, 'm').exec(readText('/proc/self/limits') ?? '')?.[1];
  return value === undefined ? Number.POSITIVE_INFINITY : Number(value);
}

/**
 * @param serving the threads that serve: the workers, and others beside them
 * @throws ImgfuseError no-space if the limits are too low for a mount with so many
 */
export function assertLimits(workers: number, serving: number = workers): void {
  // those that serve, and the keeper of the disk
  const threads = serving + 1;
  const cure = workers > 1 ? 'raise it, or use fewer workers (--workers 1)' : 'raise it';
  const refuse = (what: string): ImgfuseError =>
    new ImgfuseError('no-space', `${what}; ${cure}`, { errno: ERRNO.ENOMEM });
  const bytes = limitOf('Max address space');
  const neededBytes = BASE_BYTES + threads * THREAD_BYTES;
  if (bytes < neededBytes) {
    throw refuse(
      `the limit of address space is ${Math.floor(bytes / MIB)} MiB (ulimit -v), and a mount with ${workers} workers needs ` +
        `${neededBytes / MIB} MiB`,
    );
  }
  const files = limitOf('Max open files');
  const neededFiles = BASE_FILES + threads * THREAD_FILES;
  if (files < neededFiles) {
    throw refuse(
      `the limit of open files is ${files} (ulimit -n), and a mount with ${workers} workers needs ${neededFiles}`,
    );
  }
}

/** The sentence about an error of Node or V8 that tells of a limit; null for every other one. */
export function describeShortage(error: unknown): string | null {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  if (code === 'EMFILE') return `too many files are open: the limit is ${limitOf('Max open files')} (ulimit -n)`;
  if (code === 'ENFILE') return 'too many files are open on this machine (sysctl fs.file-max)';
  if (code === 'ERR_WORKER_INIT_FAILED') {
    return 'no further thread can be started; look at the limits of processes (ulimit -u, pids.max of the cgroup)';
  }
  if (!(error instanceof RangeError) || message !== 'Array buffer allocation failed') return null;
  const bytes = limitOf('Max address space');
  const limit = Number.isFinite(bytes)
    ? `: the limit of address space is ${Math.floor(bytes / MIB)} MiB (ulimit -v)`
    : '';
  return `there is not enough memory${limit}`;
}

/**
 * Descriptors beyond a limit that was lowered since they were opened cannot be covered in a program that is started: they are
 * marked to be closed in it.
 */
export async function closeBeyondLimit(): Promise<void> {
  const limit = limitOf('Max open files');
  const beyond = inheritableDescriptors().filter((descriptor) => descriptor >= limit);
  if (beyond.length === 0) return;
  const { closeOnExec } = await import('../native/index.ts');
  for (const descriptor of beyond) closeOnExec(descriptor);
}
