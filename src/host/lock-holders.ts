// The processes that hold a lock on an image file. /proc/locks names the process of a POSIX lock, but not that of an OFD lock:
// the fdinfo of each process lists the locks of its descriptors. Links are read and never followed: what another
// descriptor leads to may be a mount that answers late, or our own that never does.
//
//   1: OFDLCK ADVISORY  READ -1 fe:00:2146504 100 101     kind, -, READ or WRITE, pid, device:inode, first and last byte

import { basename } from 'node:path';
import type { HostFile } from './host-file.ts';
import { realPath } from './paths.ts';
import { processIds } from './processes.ts';
import { linkTarget, namesIn, readText } from './small-files.ts';

const HOLDERS_MAX = 4;

interface LockLine {
  /** -1 for an OFD lock */
  readonly pid: number;
  /** digits */
  readonly inode: string;
  readonly first: number;
  /** infinity: to the end of the file, however far it grows */
  readonly last: number;
}

/** The processes that hold a lock on `byte` of the file, as a phrase; as far as this user may look. */
export function describeHolders(file: HostFile, byte: number): string {
  const { inode } = file.identity();
  const covers = (line: LockLine): boolean => line.inode === inode && line.first <= byte && line.last >= byte;
  const pids = new Set<number>();
  for (const line of locksIn('/proc/locks')) if (line.pid > 0 && covers(line)) pids.add(line.pid);
  const path = realPath(file.path);
  const users: number[] = [];
  for (const pid of processIds()) {
    const descriptors = descriptorsOf(pid, path).filter((fd) => pid !== process.pid || fd !== file.descriptor);
    if (descriptors.length > 0) users.push(pid);
    if (descriptors.some((fd) => locksIn(`/proc/${pid}/fdinfo/${fd}`).some(covers))) pids.add(pid);
  }
  // if no process is seen to hold the lock, those that have the file open are named
  const named = pids.size > 0 ? [...pids] : users;
  if (named.length === 0) return 'another program';
  const phrases = named.slice(0, HOLDERS_MAX).map((pid) => `${commandOf(pid)} (process ${pid})`);
  return [...phrases, ...(named.length > HOLDERS_MAX ? ['others'] : [])].join(' and ');
}

/** The locks that /proc/locks or a file of fdinfo lists; other lines are passed over. */
function locksIn(path: string): LockLine[] {
  const found: LockLine[] = [];
  for (const line of readText(path)?.split('\n') ?? []) {
    const match =
      /^(?:lock:\s*)?\d+: (?:OFDLCK|POSIX)\s+\S+\s+(?:READ|WRITE)\s+(-?\d+) \S+:(\d+) (\d+) (\d+|EOF)$/.exec(line);
    if (match === null) continue;
    const [, pid, inode, first, last] = match;
    found.push({
      pid: Number(pid),
      inode: inode!,
      first: Number(first),
      last: last === 'EOF' ? Number.POSITIVE_INFINITY : Number(last),
    });
  }
  return found;
}

/** Descriptors of a process that lead to `path`; in another mount namespace only the name of the file is the same. */
function descriptorsOf(pid: number, path: string): number[] {
  const name = `/${basename(path)}`;
  return namesIn(`/proc/${pid}/fd`)
    .filter((fd) => linkTarget(`/proc/${pid}/fd/${fd}`)?.endsWith(name) === true)
    .map(Number);
}

function commandOf(pid: number): string {
  return readText(`/proc/${pid}/comm`)?.trim() || 'a program';
}
