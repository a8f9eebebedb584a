// Who keeps a mount busy: loop devices over a file in it, the file systems mounted from those, and processes with an open
// file or their working directory there. Reads /proc and /sys only, never the mount itself. What other processes do is read
// by a process of its own, because a process in an odd state can block whoever looks at it, for ever.

import { spawn } from 'node:child_process';
import { shellQuote } from '../bytes/printable.ts';
import type { MountEntry } from '../fuse/index.ts';
import { readMountTable } from '../fuse/mount-table.ts';
import { namesIn, readText } from '../host/small-files.ts';
import { liesIn, type ProcessUser, USERS_COMMAND } from './processes-inside.ts';

/** how long the look at other processes may take */
const LOOK_MS = 3000;

/** A loop device whose backing file lies in the mount. */
export interface LoopUser {
  readonly device: string;
  /** where file systems of the device or its partitions are mounted */
  readonly mountpoints: readonly string[];
  /** the device goes away with its last user (mount -o loop) */
  readonly autoclear: boolean;
}

export interface MountUsers {
  readonly loops: readonly LoopUser[];
  readonly processes: readonly ProcessUser[];
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
