// Busy polling by the one thread that serves a mount at first, which runs this file. A processor without work is halted, and to wake it takes
// 10 to 20 us in a virtual machine, as much as all else of a small request. So between requests that follow each other closely
// the thread looks for the next one, for at most WINDOW_MS, before it sleeps in the kernel.
// It does so while it pays: not where requests wait already, where they come seldom, or where others want the processor. Of several
// threads, one takes its request while the other sends its reply, so they do not need it.

import type { Channel, ConnectionEnd } from '../../fuse/index.ts';

/** How long a thread looks for the next request. Others that poll do it for 32 us (QEMU) to 200 us (Linux, for a guest that halts). */
const WINDOW_MS = 0.05;

/** For how many requests the thread sleeps at once, if the next one ... */
const PAUSE = {
  /** ... was there without waiting */
  waiting: 4,
  /** ... did not come in time: twice as many each time in a row, up to `latest` */
  late: 1,
  latest: 256,
  /** ... came while others waited for the processor */
  contended: 1024,
};

/** Requests between two looks at whether others want the processor. */
const CONTENTION_EVERY = 64;
/** If the thread itself waits for a processor longer than this part of the time, others do as well. */
const CONTENDED = 1 / 16;

export interface BusyPollParts {
  /** whether a request waits */
  readonly isWaiting: () => boolean;
  /** milliseconds that the calling thread was ready to run and had no processor */
  readonly delayMs: () => number;
  /** milliseconds of a steady clock */
  readonly nowMs?: () => number;
}

export class BusyPoll implements Channel {
  private readonly channel: Channel;
  private readonly isWaiting: () => boolean;
  private readonly delayMs: () => number;
  private readonly nowMs: () => number;
  /** requests until the thread looks again */
  private pause: number = PAUSE.waiting;
  private nextPause: number = PAUSE.late;
  private untilContention = CONTENTION_EVERY;
  private lastMs: number;
  private lastDelayMs: number;

  constructor(channel: Channel, { isWaiting, delayMs, nowMs = () => performance.now() }: BusyPollParts) {
    this.channel = channel;
    this.isWaiting = isWaiting;
    this.delayMs = delayMs;
    this.nowMs = nowMs;
    this.lastMs = nowMs();
    this.lastDelayMs = delayMs();
  }

  receive(target: Uint8Array): number | ConnectionEnd {
    if (this.pause > 0) this.pause--;
    else this.poll();
    return this.channel.receive(target);
  }

  send(source: Uint8Array, length: number): boolean {
    return this.channel.send(source, length);
  }

  /** From now on other threads serve as well. */
  stop(): void {
    this.pause = Number.POSITIVE_INFINITY;
  }

  private poll(): void {
    if (--this.untilContention === 0 && this.isContended()) {
      this.pause = PAUSE.contended;
    } else if (this.isWaiting()) {
      this.pause = PAUSE.waiting;
    } else if (this.comesSoon()) {
      this.nextPause = PAUSE.late;
    } else {
      this.pause = this.nextPause;
      this.nextPause = Math.min(2 * this.nextPause, PAUSE.latest);
    }
  }

  private comesSoon(): boolean {
    const end = this.nowMs() + WINDOW_MS;
    do {
      if (this.isWaiting()) return true;
    } while (this.nowMs() < end);
    return false;
  }

  /** Since the last time it was asked. */
  private isContended(): boolean {
    const now = this.nowMs();
    const delay = this.delayMs();
    const isContended = delay - this.lastDelayMs > (now - this.lastMs) * CONTENDED;
    this.lastMs = now;
    this.lastDelayMs = delay;
    // after a pause it is asked at once
    this.untilContention = isContended ? 1 : CONTENTION_EVERY;
    return isContended;
  }
}
