// How long a thread was ready to run and no processor was free for it, as the kernel counts it: what the machine adds to a
// measured time, and the thread itself does not.

import { openSync, readSync } from 'node:fs';

/** @returns a clock of the calling thread in ms; one that stands still where the kernel does not count it */
export function runDelayClock(): () => number {
  let descriptor: number;
  try {
    // of the thread that opens it: time on a processor, time waiting for one (ns), switches
    descriptor = openSync('/proc/thread-self/schedstat', 'r');
  } catch {
    return () => 0;
  }
  const text = Buffer.alloc(80);
  return () => {
    const length = readSync(descriptor, text, 0, text.length, 0);
    return Number(text.toString('latin1', 0, length).split(' ')[1] ?? 0) / 1e6;
  };
}
