// Failpoints: the named steps of a request at which a test may stop, fail, count or record this thread. Nothing listens in
// production, where a step costs one comparison. Each thread has one listener, because a thread has one request in flight.

/** What a thread is about to do when it reaches a failpoint of that name. */
export const FAILPOINTS = [
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
  /** give clusters that read as zeros a place in the file */
  'preallocate',
  /** punch a hole where a cluster was that nothing refers to any more */
  'punch-hole',
  /** fdatasync */
  'flush',
  /** write links whose data is durable */
  'link',
  /** release the lock between two pieces of those links */
  'link-pause',
  /** sleep until other requests release their clusters */
  'reservation-wait',
] as const;
export type Failpoint = (typeof FAILPOINTS)[number];

let listener: ((failpoint: Failpoint) => void) | null = null;

/** Announces a step that comes next; throws what the listener throws. */
export function failpoint(name: Failpoint): void {
  if (listener !== null) listener(name);
}

/** Sets what this thread's failpoints call, or nothing. */
export function listenToFailpoints(next: ((failpoint: Failpoint) => void) | null): void {
  listener = next;
}
