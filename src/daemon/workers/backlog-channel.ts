// The channel of the one thread that serves a mount at first, which runs this file: it sees whether requests wait behind the one that was
// received. Then the other threads are worth their start. Requests that come one at a time would go to the threads in turn, and
// each thread compiles what it runs for itself: with two of them the first thousands take twice the processor time.

import type { Channel, ConnectionEnd } from '../../fuse/index.ts';

/** Requests from one look to the next: a look costs a microsecond. */
const REQUESTS = 16;
/** In a row, at one request after the other. Fewer may be a file that is closed, which waits for nobody. */
const LOOKS = 3;
/** A request that took so long, a flush or a discard, has another look behind it. A small read takes a tenth of it. */
const LONG_MS = 0.25;
/** So many times another request waited behind a long one, within so many requests: now and then it is a file that is closed. */
const LONG_WAITS = 3;
const LONG_WINDOW = 256;

export class BacklogChannel implements Channel {
  private readonly channel: Channel;
  private readonly isWaiting: () => boolean;
  private readonly crowded: () => void;
  private readonly nowMs: () => number;
  private left = REQUESTS;
  private seen = 0;
  /** the first ones are long because nothing is compiled yet, so nothing is counted before the first window begins */
  private waits = Number.NEGATIVE_INFINITY;
  private window = LONG_WINDOW;
  private receivedMs: number;

  /**
   * @param isWaiting whether another request waits
   * @param crowded called once
   * @param nowMs milliseconds of a steady clock
   */
  constructor(
    channel: Channel,
    isWaiting: () => boolean,
    crowded: () => void,
    nowMs: () => number = () => performance.now(),
  ) {
    this.channel = channel;
    this.isWaiting = isWaiting;
    this.crowded = crowded;
    this.nowMs = nowMs;
    this.receivedMs = nowMs();
  }

  receive(target: Uint8Array): number | ConnectionEnd {
    const received = this.channel.receive(target);
    if (--this.window === 0) this.beginWindow();
    if (--this.left === 0) this.look();
    this.receivedMs = this.nowMs();
    return received;
  }

  /** Before the reply is sent, a request that waits is of somebody else. */
  send(source: Uint8Array, length: number): boolean {
    if (this.left > 0 && this.nowMs() - this.receivedMs > LONG_MS) this.lookBehind();
    return this.channel.send(source, length);
  }

  private look(): void {
    this.seen = this.isWaiting() ? this.seen + 1 : 0;
    if (this.seen < LOOKS) this.left = this.seen === 0 ? REQUESTS : 1;
    else this.call();
  }

  private lookBehind(): void {
    if (this.isWaiting() && ++this.waits === LONG_WAITS) this.call();
  }

  private beginWindow(): void {
    this.waits = 0;
    this.window = LONG_WINDOW;
  }

  private call(): void {
    // no look any more
    this.left = 0;
    this.crowded();
  }
}
