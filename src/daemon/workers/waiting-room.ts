// The requests that wait for space on the host (-o full=wait): a thread of its own repeats them until they succeed, so that the
// workers go on with reads. Invariant: every request that is taken in is answered exactly once, on the descriptor that it was
// received from.
//
// The order of requests that are under way together was never promised, with or without this: several workers act on them. The
// kernel sends what depends on an answer after that answer, so a held request is one that takes long, and nothing more. It may
// be repeated as a whole, also if it had changed some clusters before it met the end of the space: see native-notes/full-host.md.

import { ERRNO } from '../../errors/index.ts';
import type { Channel, FuseServer } from '../../fuse/index.ts';
import { isDying } from '../../host/processes.ts';
import type { Gate } from './request-gate.ts';
import type { ServingWords } from './serving-words.ts';

/** between two tries */
export const RETRY_MS = 250;

/** A request that is held. */
export interface HeldRequest {
  readonly message: Uint8Array;
  /** takes the answer */
  readonly channel: Channel;
  /** the thread that waits for the answer; 0 if it is not known */
  readonly requester: number;
  /** when it was received, of performance.timeOrigin + performance.now() */
  readonly sinceMs: number;
  /** the file that cannot grow */
  readonly file: string;
}

/** What has become of requests in one round. */
export interface Settled {
  /** they have succeeded, or failed for another reason */
  readonly done: number;
  /** they got ENOSPC, because the mount ends or because the kernel would wait no longer */
  readonly refused: number;
  /** their program was killed */
  readonly dropped: number;
}

export interface WaitingRoomParts {
  /** its hook `hold` says that it is held on, whatever happens */
  readonly server: Pick<FuseServer, 'repeat' | 'refuse'>;
  readonly words: ServingWords;
  readonly gate: Gate;
  /** how long a request may be held; absent: without end */
  readonly limitMs?: number | undefined;
}

export class WaitingRoom {
  private readonly parts: WaitingRoomParts;
  private queue: HeldRequest[] = [];

  constructor(parts: WaitingRoomParts) {
    this.parts = parts;
  }

  take(request: HeldRequest): void {
    this.queue.push(request);
  }

  get isEmpty(): boolean {
    return this.queue.length === 0;
  }

  /**
   * Tries every request once, in order. After one that failed, the others that wait for the same file are left alone: they would
   * take the space that it waits for.
   * @returns null if nothing has changed
   */
  round(now: number = performance.timeOrigin + performance.now()): Settled | null {
    const settled = { done: 0, refused: 0, dropped: 0 };
    const full = new Set<string>();
    this.queue = this.queue.filter((request) => {
      const outcome = this.settle(request, full, now);
      if (outcome === 'waits') return true;
      this.parts.words.held.leave(request.message.length);
      settled[outcome]++;
      return false;
    });
    return settled.done + settled.refused + settled.dropped === 0 ? null : settled;
  }

  private settle(request: HeldRequest, full: Set<string>, now: number): keyof Settled | 'waits' {
    const { held } = this.parts.words;
    if (!full.has(request.file)) {
      if (this.succeeds(request)) return 'done';
      full.add(request.file);
    }
    const { limitMs } = this.parts;
    if (held.isGivenUp || this.parts.words.isStopped) return this.refuse(request, ERRNO.ENOSPC, 'refused');
    if (limitMs !== undefined && now - request.sinceMs > limitMs) return this.refuse(request, ERRNO.ENOSPC, 'refused');
    // the kernel lets a killed program go only when its request is answered
    if (request.requester !== 0 && isDying(request.requester)) return this.refuse(request, ERRNO.EINTR, 'dropped');
    return 'waits';
  }

  /** @returns whether it has been answered */
  private succeeds({ message, channel }: HeldRequest): boolean {
    const { gate, server } = this.parts;
    if (!gate.enter()) return false;
    try {
      return server.repeat(message, channel);
    } finally {
      gate.leave();
    }
  }

  private refuse({ message, channel }: HeldRequest, errno: number, outcome: keyof Settled): keyof Settled {
    this.parts.server.refuse(message, channel, errno);
    return outcome;
  }
}
