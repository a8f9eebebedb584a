// Writes back cached data before a disk is taken from its users: the file systems on its loop devices, and shared mappings.
// Invariant: separate processes do the waiting, because it waits for requests that this process serves.

import { spawn } from 'node:child_process';
import { exactCommand } from '../bytes/exact-command.ts';
import type { MountUsers } from '../mounts/users.ts';
import type { Log } from './log.ts';

/** how long the end of a mount waits for the guests' file systems and for mapped pages */
const SYNC_MS = 10_000;

/** Writes back the memory of the file systems on the mount's loop devices, before they lose their disk. */
export async function syncGuests({ loops }: MountUsers, log: Log): Promise<void> {
  const mountpoints = loops.flatMap((loop) => loop.mountpoints);
  const targets = mountpoints.length > 0 ? ['-f', ...mountpoints] : loops.map((loop) => loop.device);
  if (targets.length === 0 || (await sync(targets))) return;
  log('warning', `not everything in ${mountpoints.join(', ')} could be written back`);
}

/**
 * Writes back pages that programs have changed through shared mappings of the disk. It uses fsync(2), because syncfs(2) of a FUSE
 * file system does not wait for pages. @param diskFile path of the disk in the mount
 */
export async function syncMapped(diskFile: string, log: Log): Promise<void> {
  if (await sync([diskFile])) return;
  log('warning', `what programs have stored in ${diskFile} through shared mappings could not be written back`);
}

/** Runs sync(1). @returns whether it ended in time */
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
