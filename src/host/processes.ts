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
  const stat = readText(`/proc/${pid}/stat`);
  if (stat === null) return null;
  // the name stands in parentheses and may hold anything, so count from the last one: state is then field 0
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
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
  const stat = readText('/proc/self/stat') ?? '';
  // state is field 0 behind the name: ppid, pgrp, session, tty_nr, tpgid follow
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[2] !== undefined && fields[2] === fields[5];
}
