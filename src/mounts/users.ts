// Finds the users that keep a mount busy: loop devices over a file in it, the file systems mounted from these, and processes
// with an open file or their working directory there. It reads only /proc and /sys, never the mount itself. A separate process
// looks at other processes, because reading about a process in a bad state can block forever.

import { spawn } from 'node:child_process';
import { shellQuote } from '../bytes/printable.ts';
import type { MountEntry } from '../fuse/index.ts';
import { readMountTable } from '../fuse/mount-table.ts';
import { namesIn, readText } from '../host/small-files.ts';
import { liesIn, type ProcessUser, USERS_COMMAND } from './processes-inside.ts';

/** limit for the search of other processes */
const LOOK_MS = 3000;

/** A loop device as sysfs shows it. */
export interface LoopDevice {
  readonly device: string;
  /** the paths of the device and its partitions */
  readonly names: readonly string[];
  /** their numbers, "major:minor" */
  readonly numbers: readonly string[];
  /** the device detaches itself after its last user (mount -o loop) */
  readonly autoclear: boolean;
}

/** A loop device whose backing file lies in the mount. */
export interface LoopUser {
  readonly device: string;
  /** mountpoints of the file systems on the device or its partitions */
  readonly mountpoints: readonly string[];
  /** the device detaches itself after its last user (mount -o loop) */
  readonly autoclear: boolean;
}

export interface MountUsers {
  readonly loops: readonly LoopUser[];
  readonly processes: readonly ProcessUser[];
}

/** The answer lacks the processes if the search for them takes too long. */
export async function findMountUsers(mountpoint: string): Promise<MountUsers> {
  const command = [process.argv[1] ?? '', USERS_COMMAND, JSON.stringify(mountpoint)];
  return {
    loops: findLoops(mountpoint, readMountTable()),
    processes: await askForProcesses(process.execPath, command, LOOK_MS),
  };
}

/** Runs a program and parses the processes that it prints as JSON; an empty list if it fails or does not end in time. */
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
      // do not wait for it to die: a process that is stuck in the kernel does not
      child.kill('SIGKILL');
      child.stdout?.destroy();
      child.unref();
      resolve([]);
    }, limitMs);
    child.on('error', finish);
    // without a free descriptor there is no pipe, and the error comes later
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
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

/** The loop devices whose file lies in the mount. */
export function loopDevicesOver(mountpoint: string): LoopDevice[] {
  const loops: LoopDevice[] = [];
  for (const name of namesIn('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const folder = `/sys/block/${name}`;
    const backing = readText(`${folder}/loop/backing_file`)?.replace(/\n$/, '');
    if (backing === undefined || !liesIn(backing.replace(/ \(deleted\)$/, ''), mountpoint)) continue;
    const partitions = namesIn(folder).filter((entry) => entry.startsWith(`${name}p`));
    const numbers = [folder, ...partitions.map((entry) => `${folder}/${entry}`)].map((each) => readText(`${each}/dev`));
    loops.push({
      device: `/dev/${name}`,
      names: [name, ...partitions].map((entry) => `/dev/${entry}`),
      numbers: numbers.map((number) => number?.trim() ?? ''),
      autoclear: readText(`${folder}/loop/autoclear`)?.trim() === '1',
    });
  }
  return loops;
}

/** Whether a file system lies on the loop device. One that has a device number of its own, as btrfs has, says so by its source. */
export function isMountedFrom({ names, numbers }: LoopDevice, { major, minor, source }: MountEntry): boolean {
  return numbers.includes(`${major}:${minor}`) || names.includes(source);
}

function findLoops(mountpoint: string, mounts: readonly MountEntry[]): LoopUser[] {
  return loopDevicesOver(mountpoint).map((loop) => ({
    device: loop.device,
    mountpoints: mounts.filter((mount) => isMountedFrom(loop, mount)).map((mount) => mount.mountpoint),
    autoclear: loop.autoclear,
  }));
}

/** The users of the mount in one phrase; null if none was found. */
export function describeUsers(users: MountUsers): string | null {
  const loops = users.loops.map((loop) =>
    loop.mountpoints.length === 0 ? loop.device : `${loop.device} (mounted at ${loop.mountpoints.join(', ')})`,
  );
  const processes = users.processes.map((user) => `process ${user.pid} (${user.name})`);
  const all = [...loops, ...processes];
  return all.length === 0 ? null : all.join(', ');
}

/** Whether only loop devices use the mount that detach themselves a moment after their last user. */
export function isLettingGo({ loops, processes }: MountUsers): boolean {
  return processes.length === 0 && loops.every((loop) => loop.autoclear && loop.mountpoints.length === 0);
}

/** The commands that remove the loop devices from the mount, as one line; null if there are none. */
export function cureForUsers(users: MountUsers): string | null {
  const commands: string[] = [];
  // unmount in reverse order: a later mount may lie inside an earlier one
  for (const loop of users.loops) {
    for (const mountpoint of [...loop.mountpoints].reverse()) commands.push(`umount ${shellQuote(mountpoint)}`);
    if (!loop.autoclear) commands.push(`losetup -d ${loop.device}`);
  }
  return commands.length === 0 ? null : commands.join('; ');
}
