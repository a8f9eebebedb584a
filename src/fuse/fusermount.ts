// fusermount3, the set-user-id helper that mounts and unmounts for users who are not root; fusermount of FUSE 2 speaks
// the same protocol and is used if the newer one is missing. No argument is code to a shell.

import { type SpawnSyncReturns, type StdioOptions, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { exactCommand, PROGRAM_MISSING } from '../bytes/exact-command.ts';
import { ImgfuseError } from '../errors/index.ts';
import { receiveDescriptor, socketPair } from '../native/index.ts';

const HELPERS = ['fusermount3', 'fusermount'] as const;
/** the helper's number of the socket that it sends the descriptor through */
const COMMUNICATION_FD = 3;
/** spawnSync takes `detached` as spawn does; its types do not say so */
const DETACHED: object = { detached: true };

/** Mounts and returns the descriptor of /dev/fuse. @throws ImgfuseError permission, missing (no helper), io */
export function fusermountMount(mountpoint: string, options: string): number {
  const [ours, theirs] = socketPair();
  try {
    const child = runAndClose(['-o', options, '--', mountpoint], theirs);
    if (child.status !== 0) throw helperError('mount', mountpoint, child);
    return receiveDescriptor(ours);
  } finally {
    fs.closeSync(ours);
  }
}

/** @throws ImgfuseError busy, permission, missing (no helper), io */
export function fusermountUnmount(mountpoint: string, lazy: boolean): void {
  const child = run(['-u', ...(lazy ? ['-z'] : []), '--', mountpoint], ['ignore', 'ignore', 'pipe']);
  if (child.status !== 0) throw helperError('unmount', mountpoint, child);
}

/** Our copy of the helper's socket is closed before we read from ours, so that a helper that sent nothing is the end of the data. */
function runAndClose(parameters: readonly string[], socket: number): SpawnSyncReturns<string> {
  try {
    return run(parameters, ['ignore', 'ignore', 'pipe', socket]);
  } finally {
    fs.closeSync(socket);
  }
}

function run(parameters: readonly string[], stdio: StdioOptions): SpawnSyncReturns<string> {
  // LC_ALL: its messages are looked at
  const env = { ...process.env, LC_ALL: 'C', _FUSE_COMMFD: String(COMMUNICATION_FD) };
  for (const helper of HELPERS) {
    // detached: a signal to our whole process group, from a terminal or timeout(1), must not end it half-way
    const [program, exact] = exactCommand(helper, parameters);
    const child = spawnSync(program, exact, { ...DETACHED, stdio, env, cwd: '/', encoding: 'utf8' });
    const isMissing = (child.error as NodeJS.ErrnoException | undefined)?.code === 'ENOENT';
    if (!isMissing && child.status !== PROGRAM_MISSING) return child;
  }
  throw new ImgfuseError('missing', 'fusermount3 is not in the PATH, and only root mounts without it: install fuse3');
}

function helperError(operation: string, mountpoint: string, child: SpawnSyncReturns<string>): ImgfuseError {
  const said = (child.stderr ?? '').trim().replaceAll('\n', '; ');
  const context = { path: mountpoint, operation };
  const message = `${mountpoint}: ${said === '' ? `fusermount3 could not ${operation} it` : said}`;
  if (/busy/i.test(said)) return new ImgfuseError('busy', message, context, child.error);
  if (/permi|not allowed|only allowed|denied|no write access/i.test(said))
    return new ImgfuseError('permission', message, context, child.error);
  if (/not found|not mounted/i.test(said)) return new ImgfuseError('missing', message, context, child.error);
  return new ImgfuseError('io', message, context, child.error);
}
