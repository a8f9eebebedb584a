// Descriptors of this process that lead to no image: standard output and error, the terminal, and what a program that is started
// would inherit.

import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { hostPath } from '../bytes/names.ts';
import { ERRNO } from '../errors/index.ts';
import { namesIn, readText } from './small-files.ts';

/** pause after a full pipe before the next try */
const FULL_PIPE_MS = 5;

/** Of open(2), as /proc shows it; Node has no name for them. */
const O_CLOEXEC = 0o2000000;

const O_PATH = 0o10000000;

/** The terminal of the user, even if standard input and output lead elsewhere; null if there is none. */
export function openTerminal(): number | null {
  try {
    return openSync('/dev/tty', 'r+');
  } catch {
    return null;
  }
}

/** Whether somebody can read standard error on a terminal. */
export function showsErrorsOnTerminal(): boolean {
  try {
    // node:tty takes milliseconds to load, and a pipe or a file needs no question
    return fstatSync(2).isCharacterDevice() && isatty(2);
  } catch {
    return false;
  }
}

/** Descriptors from 3 on that a program started by this one would inherit; this one inherited them, too. */
export function inheritableDescriptors(): number[] {
  // Node opens its own with O_CLOEXEC, and sets it for those that it was started with up to 15
  const isKept = (descriptor: number): boolean => {
    const flags = /^flags:\s*([0-7]+)$/m.exec(readText(`/proc/self/fdinfo/${descriptor}`) ?? '')?.[1];
    return flags !== undefined && (Number.parseInt(flags, 8) & O_CLOEXEC) === 0;
  };
  return namesIn('/proc/self/fd')
    .map(Number)
    .filter((descriptor) => descriptor > 2 && isKept(descriptor));
}

/** The empty device, to stand for a file in a program that is started. */
export function openNothing(): number {
  return openSync('/dev/null', 'r');
}

/** A descriptor that keeps a file reachable through /proc/PID/fd after its name is gone; it can neither read nor write. */
export function holdFile(path: string): number {
  return openSync(hostPath(path), O_PATH | constants.O_NOFOLLOW);
}

export function closeDescriptor(descriptor: number): void {
  closeSync(descriptor);
}

/** A line on a descriptor (1, 2); a closed pipe never stops the writer. */
export function writeLine(descriptor: number, line: string): void {
  try {
    writeSync(descriptor, `${line}\n`);
  } catch {}
}

/** All of a text on a descriptor (1, 2), however slowly its reader takes it. @throws what the host says */
export function writeText(descriptor: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let written = 0; written < bytes.length; ) {
    try {
      written += writeSync(descriptor, bytes, written);
    } catch (error) {
      // another program that shares the pipe or terminal may have made it non-blocking
      if (-((error as NodeJS.ErrnoException).errno ?? 0) !== ERRNO.EAGAIN) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FULL_PIPE_MS);
    }
  }
}
