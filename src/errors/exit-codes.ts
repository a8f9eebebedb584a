// Exit codes: those of mount(8) for mount and unmount, those of qemu-img for the rest. What a check has found becomes a code in
// format/check-report.ts.
// Invariant: a mount exits with 0 only when the mount answers, an unmount only when the image is closed and clean.

import { ImgfuseError } from './index.ts';

export const EXIT_OK = 0;
/** mount(8): incorrect invocation or permissions; everything else: it did not work */
export const EXIT_USAGE = 1;
/** mount(8): system error */
export const EXIT_SYSTEM = 2;
/** mount(8): the mount or unmount failed */
export const EXIT_MOUNT = 32;
/** qemu-img check: the format has no check */
export const EXIT_NO_CHECK = 63;

/** What mount and unmount exit with for an error. */
export function mountExitCode(error: unknown): number {
  if (!(error instanceof ImgfuseError)) return EXIT_SYSTEM;
  if (error.kind === 'usage' || error.kind === 'permission') return EXIT_USAGE;
  return error.kind === 'no-space' ? EXIT_SYSTEM : EXIT_MOUNT;
}
