// The channel of the one thread that serves a mount at first, which runs this file: it sees whether requests wait behind the one that was
// received. Then the other threads are worth their start. Requests that come one at a time would go to the threads in turn, and
// each thread compiles what it runs for itself: with two of them the first thousands take twice the processor time.

import type { Channel, ConnectionEnd } from '../../fuse/index.ts';

/** Requests from one look to the next: a look costs a microsecond. */
const REQUESTS = 16;
/** In a row, at one request after the other. Fewer may be a file that is closed, which waits for nobody. */
const LOOKS = 3;

export class BacklogChannel implements Channel {
  private readonly channel: Channel;
  private readonly isWaiting: () => boolean;
  private readonly crowded: () => void;
  private left = REQUESTS;
  private seen = 0;

  /**
   * @param isWaiting whether another request waits
   * @param crowded called once
   */
  constructor(channel: Channel, isWaiting: () => boolean, crowded: () => void) {
    this.channel = channel;
    this.isWaiting = isWaiting;
    this.crowded = crowded;
  }

  receive(target: Uint8Array): number | ConnectionEnd {
    const received = this.channel.receive(target);
    if (--this.left === 0) this.look();
    return received;
  }

  send(source: Uint8Array, length: number): boolean {
    return this.channel.send(source, length);
  }

  private look(): void {
    this.seen = this.isWaiting() ? this.seen + 1 : 0;
    if (this.seen < LOOKS) this.left = this.seen === 0 ? REQUESTS : 1;
    else this.crowded();
  }
}
