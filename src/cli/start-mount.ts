// Starts a mount from its parsed arguments: in this process, or in a new one that outlives the terminal and reports when the mount
// answers. The new process is not a fork: the program starts itself again, so it inherits no thread, lock or descriptor by
// accident, not even one that this process has inherited. Invariant: exit code 0 means that the mount has answered.

import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import { environmentOfMountProcess, nodeOptions } from '../daemon/environment.ts';
import type { Foreground } from '../daemon/mount-process.ts';
import { type MountRequest, servingThreads } from '../daemon/mount-request.ts';
import type { PasswordMessage, StartReport } from '../daemon/starter.ts';
import { EXIT_SYSTEM, mountExitCode } from '../errors/exit-codes.ts';
import { closeDescriptor, inheritableDescriptors, openNothing } from '../host/descriptors.ts';
import { ask, givenPassword } from '../host/passwords.ts';
import { assertLimits, closeBeyondLimit } from '../host/process-limits.ts';
import { recordJson, withRuntimeDirectory } from '../mounts/runtime-directory.ts';
import { DAEMON_COMMAND, mountRequest, type ParsedMountArguments } from './mount-arguments.ts';
import { OpeningProgress } from './opening-progress.ts';
import { complain, complainAbout, printJson } from './output.ts';

const FIRST_FREE_DESCRIPTOR = 3;

/** Starts the mount and prints an error if that fails. @returns the exit code of mount(8) */
export async function startMount(parsed: ParsedMountArguments): Promise<number> {
  try {
    const request = mountRequest(parsed);
    assertLimits(request.workers, servingThreads(request));
    if (request.foreground) {
      const { runMountProcess } = await import('../daemon/mount-process.ts');
      return await runMountProcess(request, inForeground(request.json));
    }
    return await startInBackground(request, ({ sentence }) => complain(sentence));
  } catch (error) {
    complainAbout(error);
    return mountExitCode(error);
  }
}

function inForeground(json: boolean): Foreground {
  const progress = new OpeningProgress();
  return {
    step: (step) => progress.update(step),
    clear: () => progress.clear(),
    end: () => progress.end(),
    ready: (record) => {
      if (json) printJson(recordJson(record));
    },
  };
}

/**
 * The descriptors of the mount process: closed stdin, stdout and stderr; the report channel; the descriptor of a mount made by
 * mount.fuse3, under its number. Other inherited descriptors, such as that of a lock file, are covered, or the mount would hold
 * them open.
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

export type StartFailure = Extract<StartReport, { readonly type: 'failed' }>;

/**
 * Starts a mount process in the background. One without the password for an encrypted image ends; this process, which has the
 * terminal, asks for the password and starts another one.
 * @param explain is told why the mount process could not mount
 * @returns the exit code that the mount process reported
 */
export async function startInBackground(
  request: MountRequest,
  explain: (failure: StartFailure) => void,
): Promise<number> {
  await closeBeyondLimit();
  const given = givenPassword({ 'key-file': request.keyFile, 'key-env': request.keyEnv });
  const base64 = (password: Uint8Array): string => Buffer.from(password).toString('base64');
  const byImage: [string, string][] = [];
  for (;;) {
    const follow = given !== null || byImage.length > 0;
    const passwords = follow ? { given: given === null ? null : base64(given), byImage } : null;
    const outcome = await spawnOnce(request, passwords, explain);
    if (typeof outcome === 'number') return outcome;
    byImage.push([outcome.passwordNeeded, base64(ask(outcome.passwordNeeded))]);
  }
}

function spawnOnce(
  request: MountRequest,
  passwords: PasswordMessage | null,
  explain: (failure: StartFailure) => void,
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
        env: withRuntimeDirectory(environmentOfMountProcess(process.env)),
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
      const report = message as StartReport;
      if (report.type === 'step') return progress.update(report.step);
      progress.clear();
      if (report.type === 'note') {
        complain(report.sentence);
      } else if (report.type === 'failed') {
        const { exitCode, passwordNeeded } = report;
        // no message: this process was told to end
        if (passwordNeeded === undefined && signals.exitCode() === null) explain(report);
        outcome = passwordNeeded === undefined ? exitCode : { passwordNeeded };
      } else if (signals.exitCode() === null) {
        progress.end();
        // from now on a signal means this command and not the mount, and this command may see the end of the mount
        signals.release();
        child.removeAllListeners('exit');
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
 * Passes signals on to the mount process, which has its own session: otherwise a mount would appear that nobody expects. The mount
 * process ends at once if it is opening the image, and unmounts if it has mounted.
 */
function forwardSignals(child: ChildProcess): {
  /** exit code of this process if it was told to end, else null */
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
