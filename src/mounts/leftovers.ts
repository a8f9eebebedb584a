// Removes what a killed mount process left in the runtime directory, once its mount is gone, too.
// Invariant: a record stays while its process lives or its mount exists: `unmount` and `status` need it to describe the mount.

import { listMounts } from '../fuse/mount-table.ts';
import { readText, removeFile } from '../host/small-files.ts';
import { deviceOf } from './mountpoint.ts';
import { listRecords, ownUid, removeRuntimeFiles } from './runtime-directory.ts';

/** Cleans up for this user only: another user could change their directory while root removes files in it. */
export function removeLeftovers(): void {
  const dead = listRecords().filter((record) => !record.alive && record.owner === ownUid());
  if (dead.length === 0) return;
  const mounts = listMounts();
  for (const record of dead) {
    const isSeen = mounts.some(
      (mount) =>
        !record.opening &&
        mount.mountpoint === record.mountpoint &&
        (record.device === undefined || record.device === deviceOf(mount)),
    );
    if (isSeen) continue;
    removeRuntimeFiles(record);
    removeQuietLog(record.logPath);
  }
}

/** Removes the log of a mount that has ended, unless it has an error that the user may want to read. */
export function removeQuietLog(path: string): void {
  if (!/^\S+Z error: /m.test(readText(path) ?? '')) removeFile(path);
}
