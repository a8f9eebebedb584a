// Processes as /proc shows them, this one included.

import { readFileSync, writeFileSync } from 'node:fs';
import { namesIn, readText } from './small-files.ts';

/** The processes that this one can see. */
export function processIds(): number[] {
  return namesIn('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** The short name of a process. */
export function processName(pid: number): string {
  return readText(`/proc/${pid}/comm`)?.trim() || '?';
}

/** The bytes of this process's command line; null if they cannot be read. */
export function readCommandLine(): Uint8Array | null {
  try {
    return readFileSync('/proc/self/cmdline');
  } catch {
    return null;
  }
}

/**
 * When a process started, in clock ticks since the machine did; null if there is no such process, or only its zombie.
 * Process id and start time together name one process for good.
 */
export function processStartTime(pid: number): number | null {
  const fields = statFields(pid);
  if (fields === null) return null;
  if (fields[0] === 'Z' || fields[0] === 'X') return null;
  const start = Number(fields[19]);
  return Number.isSafeInteger(start) ? start : null;
}

/** The user that a process runs as; null if there is no such process. Its directory in /proc may belong to root all the same. */
export function processOwner(pid: number): number | null {
  const uid = /^Uid:\t\d+\t(\d+)/m.exec(readText(`/proc/${pid}/status`) ?? '')?.[1];
  return uid === undefined ? null : Number(uid);
}

/** Names this process: the whole line for ps(1), the short name for programs that list short names. */
export function nameProcess(line: string): void {
  process.title = line;
  try {
    writeFileSync('/proc/self/comm', 'imgfuse');
  } catch {}
}

/** Whether the terminal of this process sends its signals, such as that of Ctrl-C, to the process group of this one. */
export function isForegroundOfTerminal(): boolean {
  const fields = statFields('self');
  // state is field 0: ppid, pgrp, session, tty_nr, tpgid follow
  return fields?.[2] !== undefined && fields[2] === fields[5];
}

/** SIGKILL, which the kernel leaves pending in each thread of a program that any signal ends. */
const SIGKILL_BIT = 1 << 8;
/** of a thread that is closing what it had open */
const PF_EXITING = 4;

/**
 * Whether a thread was killed, or has ended, and waits only for the kernel. Signals that its program handles do not count.
 * @param task number of the thread @returns false also if it cannot be known
 */
export function isDying(task: number): boolean {
  const fields = statFields(task);
  return fields !== null && ((Number(fields[6]) & PF_EXITING) !== 0 || (Number(fields[28]) & SIGKILL_BIT) !== 0);
}

/** Fields of /proc/PID/stat from the state on: the name before it stands in parentheses and may hold anything. */
function statFields(pid: number | 'self'): readonly string[] | null {
  const stat = readText(`/proc/${pid}/stat`);
  return stat === null ? null : stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}
