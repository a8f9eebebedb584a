// Takes a mount down: unmounts it, or, if it stays busy, detaches it and ends its connection, so that the image can be closed in
// any case. mount-state.ts decides what follows.

import { setTimeout as delay } from 'node:timers/promises';
import { describeError, ERRNO, errnoOf } from '../errors/index.ts';
import { deviceAt } from '../mounts/mountpoint.ts';
import { describePlace, findElsewhere } from '../mounts/namespaces.ts';
import { describeUsers, findMountUsers, isLettingGo } from '../mounts/users.ts';
import type { Log } from './log.ts';
import type { Serving } from './serving.ts';
import type { ServingWords } from './workers/serving-words.ts';
import { syncGuests, syncMapped } from './write-back.ts';

/** retries for a mount that is busy for no visible reason, such as a probe of udev, which ends soon */
const BUSY_ATTEMPTS = 5;
const BUSY_DELAY_MS = 100;
/** limit for idle threads to notice that their mount is gone, and the interval between looks at them */
const HIDDEN_MS = 2000;
const HIDDEN_INTERVAL_MS = 100;
/** interval between looks at running requests */
const IN_HAND_INTERVAL_MS = 5;

/**
 * Unmounts. If the mount stays busy, detaches it and ends its connection.
 * @param reason for the log
 * @returns gone: no thread gets another request; stuck: the connection cannot be ended, so its users keep the mount alive
 */
export async function takeDown(
  serving: Serving,
  words: ServingWords,
  reason: string,
  log: Log,
): Promise<'gone' | 'stuck'> {
  log('notice', `${reason}: unmounting ${serving.mountpoint}`);
  // whoever waits for space keeps the mount busy, and what a guest still has in memory would have to wait, too
  await serving.space?.giveUp(reason);
  let state = `${serving.mountpoint} is still in use`;
  const device = deviceAt(serving.mountpoint);
  try {
    const isUnmounted = await unmountIdle(serving);
    if (isUnmounted && (await endsSoon(serving, words))) return 'gone';
    const users = await findMountUsers(serving.mountpoint);
    await syncGuests(users, log);
    if (isUnmounted) {
      const place = device === undefined ? null : findElsewhere(device, process.pid);
      const rest = place === null ? 'its connection has not ended' : `it is still mounted ${describePlace(place)}`;
      state = `${serving.mountpoint} is unmounted, but ${rest}`;
    } else {
      if (device !== undefined) await syncMapped(serving.diskFile, log);
      await serving.unmount({ lazy: true });
      state = `${serving.mountpoint} was in use${usedBy(describeUsers(users))} and has been detached`;
    }
  } catch (error) {
    // umount -l has detached the mount, and it is still in use: the mount table has nothing left to unmount
    log('warning', `${serving.mountpoint} cannot be unmounted: ${describeError(error)}`);
  }
  const refusal = abort(serving);
  if (refusal !== null) {
    log('warning', `${state}; ${refusal}`);
    return 'stuck';
  }
  const consequence = 'its users get errors from now on, everything that was acknowledged is kept';
  log('warning', `${reason}: ${state}; ${consequence}`);
  return 'gone';
}

/** Ends the connection. @returns null, or a phrase that says why it cannot be ended */
export function abort(serving: Serving): string | null {
  try {
    serving.abort();
    return null;
  } catch (error) {
    return describeError(error);
  }
}

/** Resolves when no thread runs a request. Tell the threads to stop before, so that none begins another one. */
export async function requestsDone(words: ServingWords): Promise<void> {
  while (words.hasRequestsInHand) await delay(IN_HAND_INTERVAL_MS);
}

/** Whether idle threads notice the end of the connection. They do not while the file system is mounted elsewhere. */
async function endsSoon(serving: Serving, words: ServingWords): Promise<boolean> {
  const ended = serving.ended.then(() => true);
  for (let idleMs = 0; idleMs < HIDDEN_MS; idleMs += HIDDEN_INTERVAL_MS) {
    if (await Promise.race([ended, delay(HIDDEN_INTERVAL_MS, false)])) return true;
    if (words.hasRequestsInHand) idleMs = 0;
  }
  return false;
}

/** Unmounts if nobody uses the mount. @returns whether it did */
async function unmountIdle(serving: Serving): Promise<boolean> {
  for (let attempt = 1; ; attempt++) {
    try {
      await serving.unmount({ lazy: false });
      return true;
    } catch (error) {
      if (errnoOf(error) !== ERRNO.EBUSY) throw error;
      if (attempt === BUSY_ATTEMPTS || !isLettingGo(await findMountUsers(serving.mountpoint))) return false;
    }
    await delay(BUSY_DELAY_MS);
  }
}

function usedBy(users: string | null): string {
  return users === null ? '' : ` by ${users}`;
}
