// A measurement that the environment switches on: IMGFUSE_LOCK_HOLDS=2 has each thread of a mount log what held the metadata lock
// of an image for 2 ms or longer, which every other request of that image has waited for.

import { reportHolds } from '../concurrency/hold-times.ts';

/** Called once by each thread that works on an open disk. @param log called once per hold */
export function logLongHolds(log: (sentence: string) => void, environment = process.env): void {
  const leastMs = Number(environment['IMGFUSE_LOCK_HOLDS'] || Number.NaN);
  if (Number.isNaN(leastMs)) return;
  reportHolds(leastMs, ({ guarded, ms, callers }) =>
    log(`${guarded} were locked for ${ms.toFixed(2)} ms by ${callers.join(' < ')}`),
  );
}
