// How a mount is taken down: it is unmounted, or detached and its connection ended when it stays busy, so that the image is
// closed all the same. What follows from the outcome is in mount-state.ts.

import { setTimeout as delay } from 'node:timers/promises';
import { describeError, ERRNO, errnoOf } from '../errors/index.ts';
import { deviceAt } from '../mounts/mountpoint.ts';
import { describePlace, findElsewhere } from '../mounts/namespaces.ts';
import { describeUsers, findMountUsers, isLettingGo } from '../mounts/users.ts';
import type { Log } from './log.ts';
import type { Serving } from './serving.ts';
import type { ServingWords } from './workers/serving-words.ts';
import { syncGuests, syncMapped } from './write-back.ts';

/** a mount that is busy for no visible reason is tried again, because a probe of udev ends soon */
const BUSY_ATTEMPTS = 5;
const BUSY_DELAY_MS = 100;
/** how long idle threads may take to see that their mount is gone, and how often they are looked at */
const HIDDEN_MS = 2000;
const HIDDEN_INTERVAL_MS = 100;
/** how often requests in hand are looked at */
const IN_HAND_INTERVAL_MS = 5;

/**
 * Unmounts; a mount that stays busy is detached and its connection ended.
 * @param reason for the log
 * @returns gone: no thread gets another request; stuck: the connection cannot be ended, its users keep the mount alive
 */
export async function takeDown(
  serving: Serving,
  words: ServingWords,
  reason: string,
  log: Log,
): Promise<'gone' | 'stuck'> {
  log('notice', `${reason}: unmounting ${serving.mountpoint}`);
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
    // detached by umount -l before, and still in use: nothing is in the mount table that could be unmounted
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

/** Ends the connection. @returns null, or the phrase that says why it goes on */
export function abort(serving: Serving): string | null {
  try {
    serving.abort();
    return null;
  } catch (error) {
    return describeError(error);
  }
}

/** Resolves when no thread has a request in hand; they must have been told to stop, so that none begins another. */
export async function requestsDone(words: ServingWords): Promise<void> {
  while (words.hasRequestsInHand) await delay(IN_HAND_INTERVAL_MS);
}

/** Whether the threads see the end of the connection once they have nothing in hand: they do not while it is mounted elsewhere. */
async function endsSoon(serving: Serving, words: ServingWords): Promise<boolean> {
  const ended = serving.ended.then(() => true);
  for (let idleMs = 0; idleMs < HIDDEN_MS; idleMs += HIDDEN_INTERVAL_MS) {
    if (await Promise.race([ended, delay(HIDDEN_INTERVAL_MS, false)])) return true;
    if (words.hasRequestsInHand) idleMs = 0;
  }
  return false;
}

/** @returns whether nobody uses the mount, which is unmounted then */
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
