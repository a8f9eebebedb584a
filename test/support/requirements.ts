// What a test needs from the machine. A skip prints why; REQUIRE_ALL=1 turns every skip into a failure.

import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** The part of vitest's test context that is used here. */
interface Skippable {
  skip(note?: string): never;
}

/**
 * Goes on when `available` is true; otherwise skips the running test, or fails it under REQUIRE_ALL=1.
 * @param context the argument of the test function
 * @param what the missing thing, for the printed line: "fusermount3 in the PATH"
 */
export function requireOrSkip(context: Skippable, available: boolean, what: string): void {
  if (available) return;
  if (process.env['REQUIRE_ALL'] === '1') throw new Error(`REQUIRE_ALL=1, and this is missing: ${what}`);
  console.warn(`skipped: this needs ${what}`);
  context.skip(`needs ${what}`);
}

/** Whether `command` is an executable file in the PATH. */
export function hasCommand(command: string): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some((folder) => isExecutable(join(folder, command)));
}

/** Whether this process may mount FUSE filesystems by itself. */
export function canMountAsRoot(): boolean {
  return process.geteuid?.() === 0 && isReadWrite('/dev/fuse');
}

function isExecutable(path: string): boolean {
  return isAccessible(path, constants.X_OK);
}

function isReadWrite(path: string): boolean {
  return isAccessible(path, constants.R_OK | constants.W_OK);
}

function isAccessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
