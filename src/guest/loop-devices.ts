// The loop devices over an attached disk. mount(8) makes them so that the kernel frees them with their last user, and one that was
// made by hand is freed here. Invariant: the image is not closed before they are gone, because a loop device that is still there
// holds its file open.

import { setTimeout as delay } from 'node:timers/promises';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { namesIn, readText } from '../host/small-files.ts';
import { commandThere, describePlace, findMountElsewhere } from '../mounts/namespaces.ts';
import { describeUsers, findMountUsers, isMountedFrom, type LoopDevice, loopDevicesOver } from '../mounts/users.ts';
import { runProgram } from './programs.ts';

/** after this time the user is told what is waited for */
const PATIENCE_MS = 2000;
const LIMIT_MS = 15_000;
const LOOK_MS = 20;

/**
 * Frees the loop devices whose file lies in `disk`, and waits until the kernel has let go of them.
 * @param note told what a long wait is for
 * @throws ImgfuseError busy: a device that stays, and why
 */
export async function freeLoopDevices(disk: string, note: (sentence: string) => void): Promise<void> {
  for (const { device, autoclear } of loopDevicesOver(disk)) {
    if (!autoclear) await runProgram('losetup', ['-d', device]);
  }
  const start = performance.now();
  let isSaid = false;
  for (;;) {
    const left = loopDevicesOver(disk);
    if (left.length === 0) return;
    const waited = performance.now() - start;
    if (waited > LIMIT_MS) throw await busyError(left);
    if (waited > PATIENCE_MS && !isSaid) {
      note(`waiting for ${left.map(({ device }) => device).join(', ')} to let go of the disk ...`);
      isSaid = true;
    }
    await delay(LOOK_MS);
  }
}

async function busyError(loops: readonly LoopDevice[]): Promise<ImgfuseError> {
  const reasons = await Promise.all(loops.map(reasonOf));
  const message = `the disk stays attached: ${reasons.join('; ')}; detach again after that`;
  return new ImgfuseError('busy', message, { path: loops[0]!.device, errno: ERRNO.EBUSY });
}

/** Why a loop device stays: what the kernel has built on it, a mount in another namespace, or a program that has it open. */
async function reasonOf(loop: LoopDevice): Promise<string> {
  const { device } = loop;
  const holders = namesIn(`/sys/block/${device.slice('/dev/'.length)}/holders`).map(holderName);
  if (holders.length > 0)
    return `${device} is in use by ${holders.join(', ')} (LVM, md, device mapper), which must be stopped`;
  const place = findMountElsewhere((mount) => isMountedFrom(loop, mount), process.pid);
  if (place !== null) return `${device} is mounted ${describePlace(place)}; run "${commandThere(place, 'umount')}"`;
  const who = describeUsers(await findMountUsers(device));
  return who === null ? `${device} is in use by something that cannot be found here` : `${device} is in use by ${who}`;
}

function holderName(name: string): string {
  return readText(`/sys/block/${name}/dm/name`)?.trim() ?? name;
}
