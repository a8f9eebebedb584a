// A measurement that the environment switches on: IMGFUSE_LOCK_HOLDS=2 has each thread of a mount log what held the metadata lock
// of an image for 2 ms or longer, which every other request of that image has waited for. The time in which the thread waited for a
// processor is left out: a busy machine does that to every thread, wherever it is.

import { reportHolds } from '../concurrency/hold-times.ts';
import { runDelayClock } from '../host/run-delay.ts';

/** Called once by each thread that works on an open disk. @param log called once per hold */
export function logLongHolds(log: (sentence: string) => void, environment = process.env): void {
  const leastMs = Number(environment['IMGFUSE_LOCK_HOLDS'] || Number.NaN);
  if (Number.isNaN(leastMs)) return;
  reportHolds(leastMs, runDelayClock(), ({ guarded, ms, callers }) =>
    log(`${guarded} were locked for ${ms.toFixed(2)} ms by ${callers.join(' < ')}`),
  );
}
