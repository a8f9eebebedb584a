// Finds the processes that have an open file or their working directory in a mount, by their links in /proc. users.ts runs this
// in a separate process, because reading the links of a process in a bad state can block forever.

import { processIds, processName } from '../host/processes.ts';
import { linkTarget, namesIn } from '../host/small-files.ts';

/** The hidden command that finds the users of a mount in a separate process. */
export const USERS_COMMAND = 'mount-users';

const PROCESSES_MAX = 5;

export interface ProcessUser {
  readonly pid: number;
  readonly name: string;
}

/** Whether an absolute path is the mountpoint or lies below it. */
export function liesIn(path: string, mountpoint: string): boolean {
  return path === mountpoint || path.startsWith(mountpoint === '/' ? '/' : `${mountpoint}/`);
}

/** Runs in the separate process: the processes that use the mount, without this one and the one that started it. */
export function processesInside(mountpoint: string): ProcessUser[] {
  const users: ProcessUser[] = [];
  for (const pid of processIds()) {
    if (pid === process.pid || pid === process.ppid) continue;
    const links = [`/proc/${pid}/cwd`, ...namesIn(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`)];
    if (!links.some((link) => isLinkInto(link, mountpoint))) continue;
    users.push({ pid, name: processName(pid) });
    if (users.length === PROCESSES_MAX) break;
  }
  return users;
}

function isLinkInto(link: string, mountpoint: string): boolean {
  const target = linkTarget(link);
  return target !== null && liesIn(target, mountpoint);
}
