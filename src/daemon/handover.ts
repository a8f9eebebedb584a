// Handover of an image (live migration): a mount that reads beside a writer becomes the writer, or the other way round. The mount
// and the open files stay; the disk below them is closed and opened again, so that all tables are read again.
// Invariants: the image is repaired and marked dirty only after we hold its locks; no request runs while the disks are exchanged;
// nobody can write before the kernel has dropped its cache; a takeover that fails leaves the mount as it was.

import { setTimeout as delay } from 'node:timers/promises';
import type { SharedDisk, VirtualDisk } from '../disk/index.ts';
import { describeError, ImgfuseError } from '../errors/index.ts';
import { describeUsers, findMountUsers } from '../mounts/users.ts';
import type { DiskKeeper } from './keeper/disk-keeper.ts';
import type { Log } from './log.ts';
import type { MountRequest } from './mount-request.ts';
import type { Serving } from './serving.ts';
import { sentenceOfWaiting } from './status-sentences.ts';
import type { ServingWords } from './workers/serving-words.ts';

/** limit for running requests, and the interval between looks at them */
const IN_HAND_MS = 10_000;
const IN_HAND_INTERVAL_MS = 1;
/** the kernel releases a file a little after it was closed */
const RELEASE_MS = 2000;
const RELEASE_INTERVAL_MS = 20;

/** The parts of a mount that an exchange of its disk needs. */
export interface HandoverParts {
  readonly request: MountRequest;
  readonly serving: Serving;
  readonly words: ServingWords;
  readonly log: Log;
  /** opens and closes the image; this thread only waits for it */
  readonly keeper: DiskKeeper;
  readonly disk: VirtualDisk;
  /** makes every thread attach to this disk before its next request */
  readonly exchange: (disk: SharedDisk) => void;
  /** resolves when the mount is told to end */
  readonly stopped: Promise<void>;
}

/** The disk is closed and could not be opened again, so no request can be served. */
export class DiskLostError extends ImgfuseError {}

/** The mount was told to end while a takeover opened the image; a thread may still be opening it. */
export class TakeoverBrokenOff extends ImgfuseError {}

/**
 * Takes the locks of a writer, opens the image again, checks it if needed, and continues read-write.
 * @throws ImgfuseError busy, corrupt, ...: the mount is unchanged then
 */
export async function takeOver(parts: HandoverParts): Promise<void> {
  const { request, keeper, log, words } = parts;
  const { handover } = parts.serving;
  if (handover === null) throw cannotDropCaches(request);
  if (request.readOnly && !request.share) {
    throw new ImgfuseError(
      'usage',
      `${request.mountpoint} was mounted read-only without share; unmount it and mount it again read-write`,
      { path: request.mountpoint },
    );
  }
  const opened = keeper.reopen({ readOnly: false, locks: 'take' });
  const next = await Promise.race([opened, parts.stopped.then(() => null)]);
  if (next === null) {
    opened.catch(() => undefined);
    throw new TakeoverBrokenOff('busy', `the mount of ${request.image} is ending`);
  }
  try {
    await closeAllGates(words);
  } catch (error) {
    await keeper.drop().catch(() => undefined);
    throw error;
  }
  parts.exchange(next);
  words.openGates(true);
  await keeper.take();
  try {
    await handover.invalidate('data');
  } catch (error) {
    await giveAway(parts);
    throw error;
  }
  handover.setReadOnly(false);
  await handover.invalidate('attributes').catch((error) => log('warning', describeError(error)));
}

/**
 * Flushes, marks the image clean, gives up the locks of a writer, and continues read-only beside the next writer.
 * @throws ImgfuseError busy if a file is open for writing; io if the image is not clean (the mount is read-only nevertheless);
 * DiskLostError
 */
export async function giveAway(parts: HandoverParts): Promise<void> {
  const { request, keeper, words } = parts;
  const { handover } = parts.serving;
  if (handover === null) throw cannotDropCaches(request);
  const waiting = parts.serving.space?.status() ?? null;
  if (waiting !== null) {
    throw new ImgfuseError('busy', `${sentenceOfWaiting(waiting)}; make space first, or end the programs that write`, {
      path: request.mountpoint,
    });
  }
  handover.setReadOnly(true);
  try {
    await closeGatesWithoutWriters(parts, handover.writableHandles);
  } catch (error) {
    handover.setReadOnly(false);
    throw error;
  }
  let failure: unknown;
  try {
    const reopened = await keeper.closeAndReopen({ readOnly: true, locks: 'share' });
    failure = reopened.failure ?? undefined;
    parts.exchange(reopened.disk);
  } catch (error) {
    throw new DiskLostError('io', `${request.image} was closed and cannot be opened again`, {}, error);
  }
  words.openGates(true);
  await handover.invalidate('attributes').catch((error) => parts.log('warning', describeError(error)));
  if (failure !== undefined) throw failure;
}

/** Closes the gates and waits until no request runs. @throws ImgfuseError busy if one does not end; the gates are open again then */
async function closeAllGates(words: ServingWords): Promise<void> {
  words.closeGates();
  const end = performance.now() + IN_HAND_MS;
  while (words.hasRequestsInHand) {
    if (performance.now() > end) {
      words.openGates(false);
      throw new ImgfuseError('busy', `a request is still being served after ${IN_HAND_MS / 1000} seconds; try again`);
    }
    await delay(IN_HAND_INTERVAL_MS);
  }
}

/** Closes the gates once no file is open for writing; new ones cannot be opened by now. @throws ImgfuseError busy */
async function closeGatesWithoutWriters(parts: HandoverParts, writableHandles: () => number): Promise<void> {
  const end = performance.now() + RELEASE_MS;
  for (;;) {
    await closeAllGates(parts.words);
    // count only now: an open that was running when writing was forbidden may have succeeded
    if (writableHandles() === 0) return;
    parts.words.openGates(false);
    if (performance.now() > end) break;
    await delay(RELEASE_INTERVAL_MS);
  }
  const { mountpoint } = parts.serving;
  const users = describeUsers(await findMountUsers(mountpoint));
  throw new ImgfuseError(
    'busy',
    `the disk of ${mountpoint} is open for writing${users === null ? '' : ` (in use by ${users})`}; close it first`,
    { path: mountpoint },
  );
}

function cannotDropCaches({ mountpoint }: MountRequest): ImgfuseError {
  return new ImgfuseError(
    'unsupported',
    `${mountpoint} is served by fuse-native, which cannot make the kernel drop what it has cached; ` +
      'unmount it and mount it with --transport kernel',
    { path: mountpoint },
  );
}
