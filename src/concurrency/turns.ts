// Turns on a processor. A thread with long work never sleeps, so whoever wakes up on its processor waits for the end of its time
// slice, up to a tick of the kernel: 4 ms, where a small read takes 20 us. So it offers its processor between two pieces of its work.

import { steadyMs } from './clock.ts';

/** How long a thread works until it offers its processor again. */
const TURN_MS = 0.1;

let offer: (() => void) | null = null;
let lastMs = Number.NEGATIVE_INFINITY;

/**
 * Without this nothing is offered.
 * @param call lets others run that wait for the processor of the calling thread, and returns at once if nobody does
 */
export function offerProcessorWith(call: (() => void) | null): void {
  offer = call;
}

/** Between two pieces of long work, while nothing is locked. */
export function offerProcessor(): void {
  if (offer === null) return;
  const now = steadyMs();
  if (now - lastMs < TURN_MS) return;
  offer();
  lastMs = steadyMs();
}
