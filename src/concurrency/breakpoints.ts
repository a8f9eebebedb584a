// Breakpoints: the named steps of a request at which a test may stop, fail, count or record this thread. Nothing listens in
// production, where a step costs one comparison. One listener a thread, because a thread is one request in flight.

/** What a thread is about to do when it reaches a breakpoint of that name. */
export const BREAKPOINTS = [
  // look an entry up, through the cache
  'l1-load',
  'l2-load',
  'refcount-load',
  // write metadata; failing here is a failed host write
  'l1-update',
  'l2-update',
  'refcount-update',
  'header-update',
  'cluster-allocate',
  // move guest data; cow-read and cow-write are the part of a cluster that the guest does not write
  'data-read',
  'data-write',
  'cow-read',
  'cow-write',
  'backing-read',
  /** take away the data of clusters, or of a part of one */
  'discard',
  /** give a place to what reads as zeros */
  'preallocate',
  /** punch the hole of a cluster that nothing refers to any more */
  'punch-hole',
  /** fdatasync */
  'flush',
  /** write the links that a fdatasync has made safe */
  'link',
  /** let other requests in between two pieces of those links */
  'link-pause',
  /** sleep until other requests give their clusters back */
  'reservation-wait',
] as const;
export type Breakpoint = (typeof BREAKPOINTS)[number];

let listener: ((breakpoint: Breakpoint) => void) | null = null;

/** Announces a step that comes next; throws what the listener throws. */
export function reach(breakpoint: Breakpoint): void {
  if (listener !== null) listener(breakpoint);
}

/** Sets what this thread's breakpoints call, or nothing. */
export function listenToBreakpoints(next: ((breakpoint: Breakpoint) => void) | null): void {
  listener = next;
}
