// The gate between the kernel and a worker thread, which runs this file. A thread parked in read(/dev/fuse) cannot be woken
// where its connection cannot be aborted, so everything that ends or exchanges the disk is decided here, when its next request
// arrives.
// Invariant: a thread touches the disk only between enter and leave. Once the mount is stopped, or the gates are closed, and the
// thread has nothing in hand, it does not touch the disk again before the gates open, and then takes the disk of that time.

import type { Channel, ConnectionEnd } from '../../fuse/index.ts';
import type { ServingWords } from './serving-words.ts';

export class Gate {
  private readonly words: ServingWords;
  private readonly slot: number;
  private readonly renew: () => void;
  private generation: number;

  /**
   * @param slot of this thread among the words
   * @param generation of the disk that the thread has
   * @param renew takes the disk that is served from now on
   */
  constructor(words: ServingWords, slot: number, generation = 0, renew: () => void = () => undefined) {
    this.words = words;
    this.slot = slot;
    this.renew = renew;
    this.generation = generation;
  }

  /** Waits while the gates are closed. @returns false when the thread shall end */
  enter(): boolean {
    const words = this.words;
    for (;;) {
      // announced before the other words are looked at: whoever sets those looks at this one afterwards
      words.take(this.slot);
      if (words.isStopped) return false;
      if (!words.areGatesClosed) break;
      this.leave();
      words.waitAtGates();
    }
    this.takeDisk();
    return true;
  }

  /** The request in hand is done. */
  leave(): void {
    this.words.putDown(this.slot);
  }

  private takeDisk(): void {
    const { generation } = this.words;
    if (generation === this.generation) return;
    this.generation = generation;
    this.renew();
  }
}

/** Requests of the kernel, let through one by one. */
export class RequestGate implements Channel {
  private readonly device: Channel;
  private readonly gate: Gate;

  constructor(device: Channel, gate: Gate) {
    this.device = device;
    this.gate = gate;
  }

  /** A request that arrives after the stop is not let through: it fails when the process and its connection end. */
  receive(target: Uint8Array): number | ConnectionEnd {
    this.gate.leave();
    const received = this.device.receive(target);
    if (typeof received === 'string' || received === 0) return received;
    return this.gate.enter() ? received : 'aborted';
  }

  send(source: Uint8Array, length: number): boolean {
    return this.device.send(source, length);
  }
}
