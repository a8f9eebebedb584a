// Temporary directories of tests, removed when the test process is done with them.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A new empty directory; every test writes only below its own. */
export function makeTemporaryDirectory(): string {
  return mkdtempSync(join(tmpdir(), 'imgfuse-test-'));
}

export function removeTemporaryDirectory(path: string): void {
  rmSync(path, { recursive: true, force: true });
}
