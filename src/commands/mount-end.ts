// How a mount ends: it is unmounted, or detached and its connection ended when it stays busy, so that the image is closed all
// the same. A connection that cannot be aborted ends with its users; who does not want to wait for them asks to leave, and
// then the disk is closed under them. Invariant: once `left` has resolved, no request begins any more (request-gate.ts).

import { setTimeout as delay } from 'node:timers/promises';
import { describeError, ERRNO, errnoOf, ImgfuseError } from '../errors/index.ts';
import type { Log } from './log.ts';
import { describePlace, findElsewhere } from './mount-namespaces.ts';
import { describeUsers, findMountUsers, isLettingGo, syncGuests } from './mount-users.ts';
import { deviceAt } from './mountpoint.ts';
import { hasRequestsInHand, setStop } from './request-gate.ts';
import type { Serving } from './serving.ts';
import { STOP } from './threads.ts';

/** a mount that is busy for no visible reason is tried again, because a probe of udev ends soon */
const BUSY_ATTEMPTS = 5;
const BUSY_DELAY_MS = 100;
/** how long idle threads may take to see that their mount is gone, and how often they are looked at */
const HIDDEN_MS = 2000;
const HIDDEN_INTERVAL_MS = 100;
/** how long the requests in hand may take when the disk is closed under its users, and how often they are looked at */
const IN_HAND_MS = 10_000;
const IN_HAND_INTERVAL_MS = 5;

export class MountEnd {
  /** resolves when nobody is waited for any more, although worker threads may be parked in the kernel */
  readonly left: Promise<void>;
  readonly #image: string;
  readonly #stopWord: Int32Array;
  readonly #log: Log;
  #waitsForUsers = false;
  #isLeaving = false;
  #resolveLeft: () => void = () => {};

  constructor(image: string, stopWord: Int32Array, log: Log) {
    this.#image = image;
    this.#stopWord = stopWord;
    this.#log = log;
    this.left = new Promise((resolve) => {
      this.#resolveLeft = resolve;
    });
  }

  /** The connection cannot be aborted: its users keep the mount alive. */
  get waitsForUsers(): boolean {
    return this.#waitsForUsers;
  }

  /** The disk is closed although worker threads may still be there. */
  get isLeaving(): boolean {
    return this.#isLeaving;
  }

  /** Unmounts; a mount that stays busy is detached and its connection ended. @param reason for the log */
  async unmount(serving: Serving, reason: string): Promise<void> {
    this.#log('notice', `${reason}: unmounting ${serving.mountpoint}`);
    let state = `${serving.mountpoint} is still in use`;
    const device = deviceAt(serving.mountpoint);
    try {
      const isUnmounted = await unmountIdle(serving);
      if (isUnmounted && (await this.#endsSoon(serving))) return;
      const users = await findMountUsers(serving.mountpoint);
      await syncGuests(users, this.#log);
      if (isUnmounted) {
        const place = device === undefined ? null : findElsewhere(device, process.pid);
        const reason = place === null ? 'its connection has not ended' : `it is still mounted ${describePlace(place)}`;
        state = `${serving.mountpoint} is unmounted, but ${reason}`;
      } else {
        await serving.unmount({ lazy: true });
        state = `${serving.mountpoint} was in use${usedBy(describeUsers(users))} and has been detached`;
      }
    } catch (error) {
      // detached by umount -l before, and still in use: nothing is in the mount table that could be unmounted
      this.#log('warning', `${serving.mountpoint} cannot be unmounted: ${describeError(error)}`);
    }
    const refusal = abort(serving);
    if (refusal !== null) return this.#waitForUsers(`${state}; ${refusal}`);
    setStop(this.#stopWord, STOP.end);
    const consequence = 'its users get errors from now on, everything that was acknowledged is kept';
    this.#log('warning', `${reason}: ${state}; ${consequence}`);
  }

  /** Takes back a mount whose start has failed, in use or not. */
  async undo(serving: Serving): Promise<void> {
    await serving.unmount({ lazy: true }).catch(() => {});
    const refusal = abort(serving);
    if (refusal !== null) this.#waitForUsers(refusal);
  }

  /** There is nothing any more that could serve: the users get errors. @param stop what the threads are told */
  breakOff(serving: Serving | null, stop: number): void {
    setStop(this.#stopWord, stop);
    const refusal = serving === null ? null : abort(serving);
    if (refusal !== null) this.leave(refusal, stop);
  }

  /** Goes on to the end under the users. @param reason for the log @param stop what the threads are told */
  leave(reason: string, stop: number): void {
    if (this.#isLeaving) return;
    this.#isLeaving = true;
    this.#log('warning', `${reason}: closing ${this.#image} under its users`);
    setStop(this.#stopWord, stop);
    this.#resolveLeft();
  }

  /** @throws ImgfuseError busy, when a worker thread does not come back from the request in its hand */
  async requestsDone(): Promise<void> {
    const end = performance.now() + IN_HAND_MS;
    while (this.#isLeaving && hasRequestsInHand(this.#stopWord)) {
      if (performance.now() > end) {
        throw new ImgfuseError('busy', `a request is still being served after ${IN_HAND_MS / 1000} seconds`);
      }
      await delay(IN_HAND_INTERVAL_MS);
    }
  }

  /** Whether the threads see the end of the connection once they have nothing in hand: they do not while it is mounted elsewhere. */
  async #endsSoon(serving: Serving): Promise<boolean> {
    const ended = serving.ended.then(() => true);
    for (let idleMs = 0; idleMs < HIDDEN_MS; idleMs += HIDDEN_INTERVAL_MS) {
      if (await Promise.race([ended, delay(HIDDEN_INTERVAL_MS, false)])) return true;
      if (hasRequestsInHand(this.#stopWord)) idleMs = 0;
    }
    return false;
  }

  #waitForUsers(state: string): void {
    this.#waitsForUsers = true;
    const choice = 'a second SIGTERM or SIGINT closes it at once, and then kills this process';
    this.#log('warning', `${state}; ${this.#image} is closed when the last user ends: ${choice}`);
  }
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

/** Ends the connection. @returns null, or the phrase that says why it goes on */
function abort(serving: Serving): string | null {
  try {
    serving.abort();
    return null;
  } catch (error) {
    return describeError(error);
  }
}

function usedBy(users: string | null): string {
  return users === null ? '' : ` by ${users}`;
}
