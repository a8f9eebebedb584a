// The processes that have an open file or their working directory in a mount, by their links in /proc. Looked for by a process of
// its own (users.ts), because a process in an odd state can block whoever looks at it, for ever.

import { processIds, processName } from '../host/processes.ts';
import { linkTarget, namesIn } from '../host/small-files.ts';

/** How the program looks for the users of a mount in a process of its own; not for people. */
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

/** For the process that is asked: those that use the mount, itself and the one that asks left out. */
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
