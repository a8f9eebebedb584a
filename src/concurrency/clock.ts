// The clock for waiting: the same in all threads, and never set back, as Date.now() is by an administrator, NTP or a resumed
// virtual machine. A link held back until "half a second later" must not wait for hours then (R9).

/** Milliseconds since some moment before this process; of no meaning in another machine's or boot's numbers. */
export function steadyMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6;
}
