// Who keeps a mount busy: loop devices over a file in it, the file systems mounted from those, and processes with an open
// file or their working directory there. Reads /proc and /sys only, never the mount itself. What other processes do is read
// by a process of its own, because a process in an odd state can block whoever looks at it, for ever.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { exactCommand } from '../bytes/exact-command.ts';
import { shellQuote } from '../bytes/printable.ts';
import type { MountEntry } from '../fuse/index.ts';
import { readMountTable } from '../fuse/mount-table.ts';
import { linkTarget, namesIn, readText } from '../host/small-files.ts';
import type { Log } from './log.ts';
import { USERS_COMMAND } from './mount-arguments.ts';
import { print } from './output.ts';

const PROCESSES_MAX = 5;
/** how long the look at other processes may take */
const LOOK_MS = 3000;
/** how long the end of a mount waits for the guests' file systems to write back, and for mapped pages */
const SYNC_MS = 10_000;

/** A loop device whose backing file lies in the mount. */
export interface LoopUser {
  readonly device: string;
  /** where file systems of the device or its partitions are mounted */
  readonly mountpoints: readonly string[];
  /** the device goes away with its last user (mount -o loop) */
  readonly autoclear: boolean;
}

export interface ProcessUser {
  readonly pid: number;
  readonly name: string;
}

export interface MountUsers {
  readonly loops: readonly LoopUser[];
  readonly processes: readonly ProcessUser[];
}

function liesIn(path: string, mountpoint: string): boolean {
  return path === mountpoint || path.startsWith(mountpoint === '/' ? '/' : `${mountpoint}/`);
}

/** Processes are missing from the answer when looking at them takes too long. */
export async function findMountUsers(mountpoint: string): Promise<MountUsers> {
  const command = [process.argv[1] ?? '', USERS_COMMAND, JSON.stringify(mountpoint)];
  return {
    loops: findLoops(mountpoint, readMountTable()),
    processes: await askForProcesses(process.execPath, command, LOOK_MS),
  };
}

/** What a program prints as JSON, or nothing when it does not end in time or does not answer. */
export function askForProcesses(
  program: string,
  parameters: readonly string[],
  limitMs: number,
): Promise<ProcessUser[]> {
  return new Promise((resolve) => {
    const child = spawn(program, parameters, { stdio: ['ignore', 'pipe', 'ignore'], cwd: '/' });
    let text = '';
    const finish = (): void => {
      clearTimeout(timer);
      resolve(parseProcesses(text));
    };
    const timer = setTimeout(() => {
      // one that is stuck in the kernel does not even die: nobody waits for it
      child.kill('SIGKILL');
      child.stdout.destroy();
      child.unref();
      resolve([]);
    }, limitMs);
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    child.on('error', finish);
    child.on('close', finish);
  });
}

function parseProcesses(text: string): ProcessUser[] {
  try {
    return JSON.parse(text) as ProcessUser[];
  } catch {
    return [];
  }
}

/** The other end: prints the processes that use the mount. @returns the exit code */
export function printProcesses(mountpoint: string): number {
  print(JSON.stringify(findProcesses(mountpoint, [process.pid, process.ppid])));
  return 0;
}

function findLoops(mountpoint: string, mounts: readonly MountEntry[]): LoopUser[] {
  const loops: LoopUser[] = [];
  for (const name of namesIn('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const backing = readText(`/sys/block/${name}/loop/backing_file`)?.replace(/\n$/, '');
    if (backing === undefined || !liesIn(backing.replace(/ \(deleted\)$/, ''), mountpoint)) continue;
    const device = `/dev/${name}`;
    const numbers = [name, ...namesIn(`/sys/block/${name}`).filter((entry) => entry.startsWith(`${name}p`))].map(
      (entry) => readText(entry === name ? `/sys/block/${name}/dev` : `/sys/block/${name}/${entry}/dev`)?.trim(),
    );
    loops.push({
      device,
      mountpoints: mounts
        .filter((mount) => numbers.includes(`${mount.major}:${mount.minor}`))
        .map((mount) => mount.mountpoint),
      autoclear: readText(`/sys/block/${name}/loop/autoclear`)?.trim() === '1',
    });
  }
  return loops;
}

function findProcesses(mountpoint: string, except: readonly number[]): ProcessUser[] {
  const users: ProcessUser[] = [];
  for (const entry of namesIn('/proc')) {
    if (!/^\d+$/.test(entry) || except.includes(Number(entry))) continue;
    const uses =
      isLinkInto(`/proc/${entry}/cwd`, mountpoint) ||
      namesIn(`/proc/${entry}/fd`).some((fd) => isLinkInto(join('/proc', entry, 'fd', fd), mountpoint));
    if (!uses) continue;
    users.push({ pid: Number(entry), name: readText(`/proc/${entry}/comm`)?.trim() ?? '?' });
    if (users.length === PROCESSES_MAX) break;
  }
  return users;
}

function isLinkInto(link: string, mountpoint: string): boolean {
  const target = linkTarget(link);
  return target !== null && liesIn(target, mountpoint);
}

/** What uses the mount, in one phrase; null when nothing was found. */
export function describeUsers(users: MountUsers): string | null {
  const loops = users.loops.map((loop) =>
    loop.mountpoints.length === 0 ? loop.device : `${loop.device} (mounted at ${loop.mountpoints.join(', ')})`,
  );
  const processes = users.processes.map((user) => `process ${user.pid} (${user.name})`);
  const all = [...loops, ...processes];
  return all.length === 0 ? null : all.join(', ');
}

/** Whether nothing uses the mount but loop devices that end by themselves, which they do a moment after their last user. */
export function isLettingGo({ loops, processes }: MountUsers): boolean {
  return processes.length === 0 && loops.every((loop) => loop.autoclear && loop.mountpoints.length === 0);
}

/** The commands that free the mount of its loop devices, as one line; null when there are none. */
export function cureForUsers(users: MountUsers): string | null {
  const commands: string[] = [];
  // what was mounted last may lie on what was mounted first
  for (const loop of users.loops) {
    for (const mountpoint of [...loop.mountpoints].reverse()) commands.push(`umount ${shellQuote(mountpoint)}`);
    if (!loop.autoclear) commands.push(`losetup -d ${loop.device}`);
  }
  return commands.length === 0 ? null : commands.join('; ');
}

/** Writes back what the file systems on the mount's loop devices still hold in memory, before their disk is taken away. */
export async function syncGuests({ loops }: MountUsers, log: Log): Promise<void> {
  const mountpoints = loops.flatMap((loop) => loop.mountpoints);
  const targets = mountpoints.length > 0 ? ['-f', ...mountpoints] : loops.map((loop) => loop.device);
  if (targets.length === 0 || (await sync(targets))) return;
  log('warning', `not everything in ${mountpoints.join(', ')} could be written back`);
}

/**
 * Writes back what programs have stored in the disk through shared mappings. By fsync(2): syncfs(2) of a FUSE file system does not
 * wait for its pages. @param diskFile the disk, in the mount
 */
export async function syncMapped(diskFile: string, log: Log): Promise<void> {
  if (await sync([diskFile])) return;
  log('warning', `what programs have stored in ${diskFile} through shared mappings could not be written back`);
}

/** Runs sync(1): a process of its own, because it waits for requests that this process serves. @returns whether it did in time */
function sync(parameters: readonly string[]): Promise<boolean> {
  return new Promise((resolve) => {
    const options = { stdio: 'ignore', timeout: SYNC_MS, killSignal: 'SIGKILL' } as const;
    const child = spawn(...exactCommand('sync', parameters), options);
    child.on('error', () => resolve(false));
    child.on('exit', (code) => resolve(code === 0));
    // a sync in the middle of a request cannot be killed; the end of the mount ends it
    setTimeout(resolve, SYNC_MS + 1000, false).unref();
  });
}
