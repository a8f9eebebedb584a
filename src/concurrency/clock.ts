// The clock for waiting, and waiting for it: the same in all threads, and never set back, as Date.now() is by an administrator, NTP or a
// resumed virtual machine. A link held back until "half a second later" must not wait for hours then (R9).

/** Nobody wakes who sleeps on it. */
const neverNotified = new Int32Array(new SharedArrayBuffer(4));

/** Milliseconds since a moment before this process began. Only numbers of one boot of one machine can be compared. */
export function steadyMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6;
}

/** Blocks this thread. */
export function sleepMs(milliseconds: number): void {
  Atomics.wait(neverNotified, 0, 0, milliseconds);
}
