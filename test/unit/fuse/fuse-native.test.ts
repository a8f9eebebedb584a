// What a session of fuse-native promises where the kernel did not tell which connection it has; libfuse is made up.

import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { ERRNO, errnoOf } from '../../../src/errors/index.ts';
import type { Filesystem } from '../../../src/fuse/filesystem.ts';
import { mountFuseNative } from '../../../src/fuse/fuse-native.ts';
import { KernelSession } from '../../../src/fuse/session.ts';

vi.mock('../../../src/fuse/fuse-native-package.ts', () => ({
  fuseNativeAvailable: () => true,
  loadFuseNative: () =>
    class {
      mount(done: (error: Error | null) => void): void {
        done(null);
      }
      close(done: () => void): void {
        done();
      }
    },
}));

function errorOf(action: () => void): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  return null;
}

test('an abort of a connection that is not known is an error on both transports: its users are served on', async () => {
  const mountpoint = mkdtempSync(join(tmpdir(), 'imgfuse-native-'));
  try {
    const native = await mountFuseNative(
      { mountpoint, source: 'a.qed', readOnly: true, allowOther: false, defaultPermissions: true, flags: [] },
      {} as Filesystem,
    );
    const kernel = new KernelSession({
      fd: -1,
      protocol: {} as never,
      mountpoint,
      rootIsFile: false,
      connection: undefined,
      inherited: false,
    });
    for (const session of [native, kernel]) {
      const error = errorOf(() => session.abort());
      expect(String(error)).toContain(`the FUSE connection of ${mountpoint} is not known, so it cannot be aborted`);
      expect(errnoOf(error)).toBe(ERRNO.EOPNOTSUPP);
    }
  } finally {
    rmdirSync(mountpoint);
  }
});
