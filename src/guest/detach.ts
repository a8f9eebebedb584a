// Takes an attachment back, in order: the guest's file systems, the loop devices, the mount of the image, the directories that were
// made. Invariant: each step finds out by itself what is left to do, so that it can begin anywhere: after an attach that was
// killed, or after a detach that was.

import { setTimeout as delay } from 'node:timers/promises';
import { ImgfuseError } from '../errors/index.ts';
import { describeUsers, findMountUsers } from '../mounts/users.ts';
import { type Attachment, forgetAttachment, listAttachments } from './attachments.ts';
import { unmountGuests } from './guest-mounts.ts';
import { freeLoopDevices } from './loop-devices.ts';

/** after this time the user is told what is waited for */
const PATIENCE_MS = 2000;
const SERVER_END_MS = 15_000;
const LOOK_MS = 50;

/** What the mount of an image has become. */
export interface ClosedImage {
  /** it is not mounted any more, and no process serves it */
  readonly closed: boolean;
  readonly clean: boolean;
  readonly error?: string | undefined;
  readonly notes: readonly string[];
}

/** What detaching needs from the command. */
export interface DetachTools {
  /** Unmounts the image that is mounted there and waits for its close; null if there is neither a mount nor a process. */
  closeImage(mountpoint: string): Promise<ClosedImage | null>;
  /** Tells the user what a long step waits for. */
  note(sentence: string): void;
}

/**
 * @returns what became of the image; null if it was not mounted any more
 * @throws ImgfuseError busy: what stays attached, and why; the attachment can be detached later
 */
export async function detach(attachment: Attachment, tools: DetachTools): Promise<ClosedImage | null> {
  const hasServer = await unmountGuests(attachment, tools.note);
  await freeLoopDevices(attachment.disk, tools.note);
  if (hasServer) await serversEnded(attachment.disk);
  const closed = await tools.closeImage(attachment.disk);
  if (closed === null || closed.closed) forgetAttachment(attachment);
  return closed;
}

/** A file system in user space writes what is left after its mount is gone. */
async function serversEnded(disk: string): Promise<void> {
  const end = performance.now() + SERVER_END_MS;
  for (;;) {
    const users = await findMountUsers(disk);
    if (users.processes.length === 0) return;
    if (performance.now() > end) {
      const who = describeUsers(users);
      throw new ImgfuseError('busy', `the disk stays attached: ${who} still writes to it; detach again after that`, {
        path: disk,
      });
    }
    await delay(LOOK_MS);
  }
}

/**
 * Ends an attach that is at work, which then takes back by itself what it has made.
 * @returns whether it has; false if it was too late, and the attachment is there
 */
export async function interruptAttach(
  { pid, recordPath }: Attachment,
  note: (sentence: string) => void,
): Promise<boolean> {
  try {
    process.kill(pid, 'SIGTERM');
  } catch {}
  const start = performance.now();
  for (let isSaid = false; ; ) {
    const now = listAttachments().find((each) => each.recordPath === recordPath);
    if (now === undefined) return true;
    if (!now.alive || now.state === 'attached') return false;
    if (!isSaid && performance.now() - start > PATIENCE_MS) {
      note(`waiting for the attach of process ${pid} to take back what it has made ...`);
      isSaid = true;
    }
    await delay(LOOK_MS);
  }
}
