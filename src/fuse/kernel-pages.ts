// The pages of the kernel, for a thread that serves requests: it has them dropped itself where nobody can be using them, and where
// somebody can, it hands the reply to the main thread, which sends it after the drop. The kernel waits for pages that are being
// read, so while it drops them every serving thread must be free.

import type { Channel } from './device.ts';
import type { KernelPages } from './filesystem.ts';
import { dropPages, type PageRange } from './invalidate.ts';
import { dropsPagesOfOthers, type Protocol } from './protocol.ts';

/** A drop that the main thread has made. */
export interface LateDrop {
  readonly ranges: readonly PageRange[];
  /** sent when they are dropped; null: it was sent before */
  readonly reply: Uint8Array | null;
}

export class ServedPages implements KernelPages {
  readonly bypassedByDirect: boolean;
  private readonly descriptor: number;
  private readonly send: (drop: LateDrop, channel: Channel) => void;
  private ranges: PageRange[] = [];

  /** @param send passes a drop to the main thread: see answerAfterDrop() @param descriptor any of the connection */
  constructor(descriptor: number, protocol: Protocol, send: (drop: LateDrop, channel: Channel) => void) {
    this.descriptor = descriptor;
    this.bypassedByDirect = dropsPagesOfOthers(protocol);
    this.send = send;
  }

  drop(node: number): void {
    dropPages(this.descriptor, node);
  }

  dropBeforeReply(node: number, start: number, end: number): void {
    const last = this.ranges.at(-1);
    // a gap is zeroed in pieces
    if (last?.node !== node) this.ranges.push({ node, start, end });
    else
      this.ranges[this.ranges.length - 1] = { node, start: Math.min(last.start, start), end: Math.max(last.end, end) };
  }

  /**
   * A request was served. @param reply null: none is due now
   * @returns whether the main thread sends it, so that nobody else may
   */
  settle(reply: Uint8Array | null, channel: Channel): boolean {
    if (this.ranges.length === 0) return false;
    const ranges = this.ranges;
    this.ranges = [];
    // a page that is written in part stays locked until its WRITE is answered
    const isLater = reply !== null && this.bypassedByDirect;
    this.send({ ranges, reply: isLater ? reply.slice() : null }, channel);
    return isLater;
  }
}
