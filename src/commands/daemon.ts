// Starts the mount process detached and waits for its report. Nothing is forked: the process starts itself anew, so no
// thread, lock or descriptor is inherited by accident, not even one of whoever started this one, and it outlives the terminal.
// Invariant: the caller gets exit code 0 only after the mount has answered.

import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import type { OpenStep } from '../disk/index.ts';
import { EXIT_SYSTEM } from '../errors/exit-codes.ts';
import { closeDescriptor, inheritableDescriptors, openNothing } from '../host/descriptors.ts';
import { ask, givenPassword } from '../host/passwords.ts';
import { closeBeyondLimit } from '../host/process-limits.ts';
import { environmentWithoutInspector, nodeOptions } from './environment.ts';
import { DAEMON_COMMAND, type MountRequest } from './mount-arguments.ts';
import { OpeningProgress } from './opening-progress.ts';
import { complain, printJson } from './output.ts';
import { type MountRecord, recordJson, withRuntimeDirectory } from './runtime-directory.ts';

/** What the mount process reports to the one that started it. */
export type DaemonReport =
  | { readonly type: 'ready'; readonly record: MountRecord }
  | {
      readonly type: 'failed';
      readonly sentence: string;
      readonly exitCode: number;
      /** the encrypted image that there was no password for */
      readonly passwordNeeded?: string;
    }
  | { readonly type: 'note'; readonly sentence: string }
  /** what the open of the image is doing */
  | { readonly type: 'step'; readonly step: OpenStep };

/** What the mount process is handed: for every image, or image by image; base64. */
export interface PasswordMessage {
  readonly given: string | null;
  readonly byImage: readonly (readonly [path: string, password: string])[];
}

const FIRST_FREE_DESCRIPTOR = 3;

/**
 * stdin, stdout, stderr closed; the report channel; and the descriptor of a mount made by mount.fuse3, under its number. What
 * else was open when this program started, such as the file of a lock, is covered: the mount would hold it for all its life.
 */
function descriptorsFor(mountpoint: string, nothing: number): ('ignore' | 'ipc' | number)[] {
  const descriptors: ('ignore' | 'ipc' | number)[] = ['ignore', 'ignore', 'ignore'];
  const put = (descriptor: number, file: number): void => {
    while (descriptors.length < descriptor) descriptors.push('ignore');
    descriptors[descriptor] = file;
  };
  for (const inherited of inheritableDescriptors()) put(inherited, nothing);
  const given = Number(/^\/dev\/fd\/(\d+)$/.exec(mountpoint)?.[1] ?? 0);
  if (given >= FIRST_FREE_DESCRIPTOR) put(given, given);
  const report = descriptors.indexOf('ignore', FIRST_FREE_DESCRIPTOR);
  if (report < 0) descriptors.push('ipc');
  else descriptors[report] = 'ipc';
  return descriptors;
}

/**
 * A process that finds an image encrypted and has no password for it ends; this one, which has the terminal, asks and
 * starts another. @returns the exit code that the mount process reported
 */
export async function spawnMountProcess(request: MountRequest): Promise<number> {
  await closeBeyondLimit();
  const given = givenPassword({ 'key-file': request.keyFile, 'key-env': request.keyEnv });
  const base64 = (password: Uint8Array): string => Buffer.from(password).toString('base64');
  const byImage: [string, string][] = [];
  for (;;) {
    const follow = given !== null || byImage.length > 0;
    const passwords = follow ? { given: given === null ? null : base64(given), byImage } : null;
    const outcome = await spawnOnce(request, passwords);
    if (typeof outcome === 'number') return outcome;
    byImage.push([outcome.passwordNeeded, base64(ask(outcome.passwordNeeded))]);
  }
}

function spawnOnce(
  request: MountRequest,
  passwords: PasswordMessage | null,
): Promise<number | { readonly passwordNeeded: string }> {
  return new Promise((resolve) => {
    const nothing = openNothing();
    const child = spawn(
      process.execPath,
      [
        ...nodeOptions(process.execArgv),
        process.argv[1] ?? '',
        DAEMON_COMMAND,
        JSON.stringify({ ...request, passwordsFollow: passwords !== null }),
      ],
      {
        detached: true,
        cwd: '/',
        env: withRuntimeDirectory(environmentWithoutInspector(process.env)),
        stdio: descriptorsFor(request.mountpoint, nothing),
      },
    );
    closeDescriptor(nothing);
    if (passwords !== null) child.send(passwords, () => undefined);
    const signals = forwardSignals(child);
    const progress = new OpeningProgress();
    let outcome: number | { readonly passwordNeeded: string } | null = null;
    child.on('error', (error) => {
      complain(`the mount process cannot be started: ${error.message}`);
      resolve(EXIT_SYSTEM);
    });
    child.on('message', (message) => {
      const report = message as DaemonReport;
      if (report.type === 'step') return progress.update(report.step);
      progress.clear();
      if (report.type === 'note') {
        complain(report.sentence);
      } else if (report.type === 'failed') {
        const { exitCode, passwordNeeded, sentence } = report;
        // whoever has told this process to end knows why
        if (passwordNeeded === undefined && signals.exitCode() === null) complain(sentence);
        outcome = passwordNeeded === undefined ? exitCode : { passwordNeeded };
      } else if (signals.exitCode() === null) {
        progress.end();
        if (request.json) printJson(recordJson(report.record));
        child.disconnect();
        child.unref();
        resolve(0);
      }
    });
    child.on('exit', (code, signal) => {
      progress.end();
      signals.release();
      const interrupted = signals.exitCode();
      if (outcome === null && interrupted === null) {
        complain(`the mount process ended before the mount answered (${signal ?? `code ${code}`})`);
      }
      resolve(outcome ?? interrupted ?? EXIT_SYSTEM);
    });
  });
}

/**
 * The mount process has a session of its own: what ends this one must end it as well, or a mount appears that nobody
 * expects. It ends at once while it opens the image, and unmounts when it is further.
 */
function forwardSignals(child: ChildProcess): {
  /** that of this process once it was told to end, else null */
  readonly exitCode: () => number | null;
  readonly release: () => void;
} {
  let exitCode: number | null = null;
  const forward = (signal: NodeJS.Signals): void => {
    exitCode = 128 + constants.signals[signal];
    child.kill(signal);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, forward);
  return {
    exitCode: () => exitCode,
    release: () => {
      for (const signal of signals) process.off(signal, forward);
    },
  };
}
