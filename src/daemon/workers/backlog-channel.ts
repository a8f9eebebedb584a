// The channel of the one thread that serves a mount at first, which runs this file: it sees whether requests wait behind the one that was
// received. Then the other threads are worth their start. Requests that come one at a time would go to the threads in turn, and
// each thread compiles what it runs for itself: with two of them the first thousands take twice the processor time.

import type { Channel, ConnectionEnd } from '../../fuse/index.ts';

/** Requests from one look to the next: a look costs a microsecond. */
const REQUESTS = 16;
/** In a row, at one request after the other. Fewer may be a file that is closed, which waits for nobody. */
const LOOKS = 3;
/** A request that took so long, a flush or a discard, has another look behind it: a small read takes a tenth of it. */
const LONG_MS = 0.25;
/** So many times another request waited behind a long one. */
const LONG_WAITS = 3;

export class BacklogChannel implements Channel {
  private readonly channel: Channel;
  private readonly isWaiting: () => boolean;
  private readonly crowded: () => void;
  private readonly nowMs: () => number;
  private left = REQUESTS;
  private seen = 0;
  private waits = 0;
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
    if (this.left > 0 && this.nowMs() - this.receivedMs > LONG_MS) this.lookBehind();
    const received = this.channel.receive(target);
    if (--this.left === 0) this.look();
    this.receivedMs = this.nowMs();
    return received;
  }

  send(source: Uint8Array, length: number): boolean {
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

  private call(): void {
    // no look any more
    this.left = 0;
    this.crowded();
  }
}
