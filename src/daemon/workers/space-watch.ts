// What the main thread knows of requests that wait for space on the host (-o full=wait), for status and the log; it passes them on
// from the workers to the waiting room. Invariant: whoever waits is in the status; a wait is in the log, with its end, unless it is
// short and follows another one at once, as on a host whose space comes in drops.

import { setTimeout as delay } from 'node:timers/promises';
import { readMountTable } from '../../fuse/mount-table.ts';
import type { Log } from '../log.ts';
import type { HeldWords } from './held-words.ts';
import type { HeldMessage, SpaceMessage } from './threads.ts';
import type { Settled } from './waiting-room.ts';

/** Limit for the last try of what is given up, and the interval between looks at it. */
const GIVE_UP_MS = 2000;
const GIVE_UP_INTERVAL_MS = 5;
/** a wait that begins sooner after the last one in the log is only told if it lasts as long */
const QUIET_MS = 10_000;

/** In the status, while there are any. */
export interface WaitingForSpace {
  /** ISO 8601 */
  readonly since: string;
  readonly requests: number;
  /** the file that cannot grow */
  readonly file: string;
  /** where its file system is mounted */
  readonly 'file-system': string;
}

/** From the first request that is held until none is. */
interface Episode {
  readonly sinceMs: number;
  readonly file: string;
  readonly fileSystem: string;
  /** what the host has no space for */
  readonly sentence: string;
  isTold: boolean;
  /** requests that went on */
  done: number;
  /** why the rest is given up */
  reason: string;
}

export class SpaceWatch {
  private readonly held: HeldWords;
  private readonly image: string;
  private readonly log: Log;
  private episode: Episode | null = null;
  /** of performance.now() */
  private quietUntilMs = 0;

  /** @param image for an error that names no file */
  constructor(held: HeldWords, image: string, log: Log) {
    this.held = held;
    this.image = image;
    this.log = log;
  }

  /** @param pass gives the waiting room a request */
  hear(message: SpaceMessage, pass: (message: HeldMessage) => void): void {
    if (message.type === 'settled') return this.settled(message.settled);
    this.episode ??= this.begin(message);
    pass(message);
    this.held.wake();
  }

  /** null: nothing waits */
  status(): WaitingForSpace | null {
    if (this.episode === null) return null;
    const { file, fileSystem, sinceMs } = this.episode;
    const since = new Date(sinceMs).toISOString();
    return { since, requests: Math.max(1, this.held.requests), file, 'file-system': fileSystem };
  }

  /** From now on requests fail if the host is full. Resolves when those that are held are answered. */
  async giveUp(reason: string): Promise<void> {
    if (this.episode !== null) this.episode.reason = reason;
    this.held.giveUp();
    const end = performance.now() + GIVE_UP_MS;
    while (this.held.requests > 0 && performance.now() < end) await delay(GIVE_UP_INTERVAL_MS);
  }

  /** The waiting room could not be started. */
  roomMissed(): void {
    this.held.giveUp();
    this.log('warning', 'full=wait has no effect: requests fail with ENOSPC if the host has no space for them');
  }

  private begin({ file: named, sentence, sinceMs }: HeldMessage): Episode {
    const file = named === '' ? this.image : named;
    const fileSystem = fileSystemOf(file);
    const episode = { sinceMs, file, fileSystem, sentence, isTold: false, done: 0, reason: 'the mount ends' };
    if (performance.now() >= this.quietUntilMs) this.tell(episode);
    else setTimeout(() => this.episode === episode && this.tell(episode), QUIET_MS).unref();
    return episode;
  }

  private tell(episode: Episode): void {
    const { fileSystem, sentence } = episode;
    episode.isTold = true;
    this.quietUntilMs = performance.now() + QUIET_MS;
    this.log(
      'warning',
      `${sentence}: from now on requests wait until there is space on ${fileSystem} (full=wait), and reads go on`,
    );
  }

  private settled({ done, refused, dropped }: Settled): void {
    if (this.episode === null) return;
    const { episode } = this;
    episode.done += done;
    const seconds = Math.round((performance.timeOrigin + performance.now() - episode.sinceMs) / 1000);
    const waited = `waited for space on ${episode.fileSystem} since ${new Date(episode.sinceMs).toISOString()}`;
    if (dropped > 0) this.log('notice', `${count(dropped)} of killed programs, which ${waited}, got EINTR`);
    if (refused > 0) {
      const reason = this.held.isGivenUp ? episode.reason : 'the kernel ends a mount over a request that takes longer';
      this.log('warning', `${count(refused)}, which ${waited}, failed with ENOSPC: ${reason}`);
    }
    if (this.held.requests > 0) return;
    this.episode = null;
    if (episode.isTold && episode.done > 0) {
      this.log(
        'notice',
        `${count(episode.done)} went on after ${seconds} s: there is space on ${episode.fileSystem} again`,
      );
    }
  }
}

function count(requests: number): string {
  return requests === 1 ? '1 request' : `${requests} requests`;
}

/** Where the file system of a file is mounted, by names alone: to look at a file system may take long. */
function fileSystemOf(file: string): string {
  const places = readMountTable().map(({ mountpoint }) => mountpoint);
  const above = places.filter((place) => place === '/' || file === place || file.startsWith(`${place}/`));
  return above.reduce((longest, place) => (place.length > longest.length ? place : longest), '/');
}
