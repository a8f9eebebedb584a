// Starts the mount process detached and waits for its report. Nothing is forked: the process starts itself anew, so no
// thread, lock or descriptor is inherited by accident, and it outlives the terminal.
// Invariant: the caller gets exit code 0 only after the mount has answered.

import { spawn } from 'node:child_process';
import { EXIT_SYSTEM } from './exit-codes.ts';
import { DAEMON_COMMAND, type MountRequest } from './mount-arguments.ts';
import { complain, printJson } from './output.ts';
import { type MountRecord, recordJson } from './runtime-directory.ts';

/** What the mount process reports to the one that started it. */
export type DaemonReport =
  | { readonly type: 'ready'; readonly record: MountRecord }
  | { readonly type: 'failed'; readonly sentence: string; readonly exitCode: number }
  | { readonly type: 'note'; readonly sentence: string };

const FIRST_FREE_DESCRIPTOR = 3;

/** stdin, stdout, stderr closed; the report channel; and the descriptor of a mount made by mount.fuse3, under its number. */
function descriptorsFor(mountpoint: string): ('ignore' | 'ipc' | number)[] {
  const inherited = /^\/dev\/fd\/(\d+)$/.exec(mountpoint)?.[1];
  const descriptors: ('ignore' | 'ipc' | number)[] = ['ignore', 'ignore', 'ignore'];
  if (inherited !== undefined && Number(inherited) >= FIRST_FREE_DESCRIPTOR) {
    while (descriptors.length < Number(inherited)) descriptors.push('ignore');
    descriptors.push(Number(inherited));
  }
  const report = descriptors.indexOf('ignore', FIRST_FREE_DESCRIPTOR);
  if (report < 0) descriptors.push('ipc');
  else descriptors[report] = 'ipc';
  return descriptors;
}

/** @returns the exit code that the mount process reported */
export function spawnMountProcess(request: MountRequest): Promise<number> {
  return new Promise((resolve) => {
    const child = spawn(
      process.execPath,
      [...process.execArgv, process.argv[1] ?? '', DAEMON_COMMAND, JSON.stringify(request)],
      { detached: true, cwd: '/', stdio: descriptorsFor(request.mountpoint) },
    );
    // the child has a session of its own: what ends us must end it, or a mount appears that nobody expects
    const forward = (signal: NodeJS.Signals): void => {
      child.kill(signal);
    };
    process.on('SIGINT', forward);
    process.on('SIGTERM', forward);
    process.on('SIGHUP', forward);

    let outcome: number | null = null;
    child.on('error', (error) => {
      complain(`the mount process cannot be started: ${error.message}`);
      resolve(EXIT_SYSTEM);
    });
    child.on('message', (message) => {
      const report = message as DaemonReport;
      if (report.type === 'note') {
        complain(report.sentence);
      } else if (report.type === 'failed') {
        complain(report.sentence);
        outcome = report.exitCode;
      } else {
        if (request.json) printJson(recordJson(report.record));
        child.disconnect();
        child.unref();
        resolve(0);
      }
    });
    child.on('exit', (code, signal) => {
      if (outcome === null) complain(`the mount process ended before the mount answered (${signal ?? `code ${code}`})`);
      resolve(outcome ?? EXIT_SYSTEM);
    });
  });
}
