// A pool of vitest where each test file runs in a mount namespace of its own: what one file mounts no other one sees, copies into
// a further namespace, or keeps alive. So files that mount can run side by side, and beside the mounts of whoever runs them.

import { spawnSync } from 'node:child_process';
import { ForksPoolWorker, type PoolOptions } from 'vitest/node';

/**
 * unshare(1) and how it becomes the program that follows. What goes outside goes inside, too: the copy of a mount would keep its
 * daemon running. Where mounts are not shared at all, the copies go at once. Loop devices and the users of a file are seen
 * across namespaces: tests look at their own only.
 */
const WITH_OWN_MOUNTS = [
  ...['--mount', '--propagation', 'slave', 'sh', '-c'],
  'umount --all --types fuse.imgfuse --lazy --internal-only --no-mtab; exec "$0" "$@"',
];

class WorkerWithOwnMounts extends ForksPoolWorker {
  constructor(options: PoolOptions) {
    super(options);
    this.execArgv = [...WITH_OWN_MOUNTS, process.execPath, ...this.execArgv];
  }

  /** Starts unshare in the place of node; unshare then becomes node. */
  override start(): Promise<void> {
    const { execPath } = process;
    process.execPath = 'unshare';
    try {
      return super.start();
    } finally {
      // super has forked by now, and other workers start before its promise resolves
      process.execPath = execPath;
    }
  }
}

/** An ordinary user cannot have one; the tests that mount are skipped there. */
const canUnshare = spawnSync('unshare', [...WITH_OWN_MOUNTS, 'true']).status === 0;

export const namespacePool = canUnshare
  ? { name: 'forks with own mounts', createPoolWorker: (options: PoolOptions) => new WorkerWithOwnMounts(options) }
  : 'forks';
