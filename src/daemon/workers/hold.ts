// How a worker holds a request that has met a full host (-o full=wait): it copies the message, has the main thread pass it to the
// waiting room, and goes on with the next request. If the room has as many as it takes, the worker itself waits for a place.

import type { ImgfuseError } from '../../errors/index.ts';
import { requesterOf } from '../../fuse/index.ts';
import { isDying } from '../../host/processes.ts';
import type { LogLevel } from '../log.ts';
import { HELD_KIB_MAX } from './held-words.ts';
import type { ServingWords } from './serving-words.ts';
import type { HeldMessage } from './threads.ts';
import { RETRY_MS } from './waiting-room.ts';

export interface HoldParts {
  readonly words: ServingWords;
  /** that the worker's requests come from, and their answers go to */
  readonly descriptor: number;
  readonly post: (message: HeldMessage) => void;
  readonly log: (level: LogLevel, sentence: string) => void;
}

/** The hook `hold` of a worker's server. */
export function holdRequests({
  words,
  descriptor,
  post,
  log,
}: HoldParts): (error: ImgfuseError, message: Uint8Array) => boolean {
  return (error, message) => {
    const sinceMs = performance.timeOrigin + performance.now();
    const requester = requesterOf(message);
    for (let isFirst = true; ; isFirst = false) {
      if (words.isStopped || words.held.isGivenUp) return false;
      const { turn } = words.held;
      if (words.held.enter(message.length)) break;
      if (words.held.requests > 0) {
        if (isFirst) log('warning', sentenceOfCrowd(words.held.requests));
        if (requester !== 0 && isDying(requester)) return false;
      }
      words.held.sleep(turn, RETRY_MS);
    }
    const file = error.context.path ?? '';
    post({ type: 'held', message: message.slice(), descriptor, requester, sinceMs, file, sentence: error.message });
    return true;
  };
}

function sentenceOfCrowd(requests: number): string {
  return (
    `${requests} requests wait for space, and no more than ${HELD_KIB_MAX / 1024} MiB of them are kept: a worker waits as ` +
    'well, so reads may have to'
  );
}
