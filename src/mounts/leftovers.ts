// What a killed mount process leaves in the runtime directory once its mount is gone, too, so that nothing there is for ever.
// Invariant: a record stays while its process lives or its mount is seen: by it `unmount` and `status` know what that was.

import { listMounts } from '../fuse/mount-table.ts';
import { readText, removeFile } from '../host/small-files.ts';
import { deviceOf } from './mountpoint.ts';
import { listRecords, ownUid, removeRuntimeFiles } from './runtime-directory.ts';

/** Only this user's: root does not clean up in directories that others can change meanwhile. */
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

/** Removes the log of a mount whose end was seen, unless it tells of an error that somebody may want to look into. */
export function removeQuietLog(path: string): void {
  if (!/^\S+Z error: /m.test(readText(path) ?? '')) removeFile(path);
}
