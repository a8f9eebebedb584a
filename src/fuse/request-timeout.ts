// How long the kernel waits for an answer: since Linux 6.15 it ends a whole connection over one request that is late, by the limits
// of the machine (fs.fuse.default_request_timeout and fs.fuse.max_request_timeout, in seconds; 0: none).

import * as fs from 'node:fs';

export interface RequestTimeouts {
  /** for file systems that ask for no limit of their own */
  readonly defaultSeconds: number;
  /** for all */
  readonly maxSeconds: number;
}

/** The longest time that INIT can ask for. */
const LONGEST_REQUEST_SECONDS = 0xffff;
/** The kernel raises shorter limits to this. */
const SHORTEST_SECONDS = 15;
/** The part of the limit that we use: the kernel's clock starts when it queues a request, ours when it is received. */
const ANSWERED_PART = 0.6;

/** The limits of this machine; none on older kernels. */
export function requestTimeouts(folder = '/proc/sys/fs/fuse'): RequestTimeouts {
  const read = (name: string): number => {
    try {
      return Number.parseInt(fs.readFileSync(`${folder}/${name}`, 'utf8'), 10) || 0;
    } catch {
      return 0;
    }
  };
  return { defaultSeconds: read('default_request_timeout'), maxSeconds: read('max_request_timeout') };
}

/** What INIT asks for: nothing if there is no default limit, because a limit that is asked for counts. */
export function wantedTimeout({ defaultSeconds }: RequestTimeouts): number {
  return defaultSeconds === 0 ? 0 : LONGEST_REQUEST_SECONDS;
}

/**
 * The time after which the kernel ends the connection of a mount; null: never, or after hours.
 * @param asks whether INIT asks for a time (wantedTimeout), as libfuse 2 does not
 */
export function connectionLimit({ defaultSeconds, maxSeconds }: RequestTimeouts, asks: boolean): number | null {
  const limits = [maxSeconds, asks ? 0 : defaultSeconds].filter((seconds) => seconds > 0);
  return limits.length === 0 ? null : Math.max(SHORTEST_SECONDS, Math.min(...limits));
}

/** The time in which a request must be answered under a limit of connectionLimit(); undefined without one. */
export function answerTimeMs(limitSeconds: number | null): number | undefined {
  return limitSeconds === null ? undefined : limitSeconds * 1000 * ANSWERED_PART;
}
