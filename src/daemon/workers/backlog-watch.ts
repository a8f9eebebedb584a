// Whether requests wait while the one thread that serves a mount at first has been at work on the same one for long: for a slow disk, a
// server, or space on the host. The main thread looks, because that thread cannot.

/** Milliseconds between two looks. */
const LOOK_MS = 100;

export interface BacklogWatchParts {
  /** requests that were received so far; null while none is in hand */
  readonly inHand: () => number | null;
  /** whether another request waits */
  readonly isWaiting: () => boolean;
  /** called once */
  readonly stuck: () => void;
}

export class BacklogWatch {
  private readonly timer: NodeJS.Timeout;
  private last: number | null = null;

  constructor(parts: BacklogWatchParts) {
    this.timer = setInterval(() => this.look(parts), LOOK_MS).unref();
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private look({ inHand, isWaiting, stuck }: BacklogWatchParts): void {
    const request = inHand();
    const isStuck = request !== null && request === this.last && isWaiting();
    this.last = request;
    if (!isStuck) return;
    this.stop();
    stuck();
  }
}
