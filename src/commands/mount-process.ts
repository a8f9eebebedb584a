// The process that serves a mount, in the foreground or started by daemon.ts: where its log goes, how it reports that the
// mount answers or why it does not, and its exit code. What it does between is the supervisor's.

import { describeError, ImgfuseError } from '../errors/index.ts';
import type { DaemonReport, PasswordMessage } from './daemon.ts';
import { guardProcess } from './environment.ts';
import { mountExitCode } from './exit-codes.ts';
import { nameProcess, removeFile } from './host-paths.ts';
import { removeLeftovers } from './leftovers.ts';
import { fileLog, type Log, stderrLog } from './log.ts';
import type { MountRequest } from './mount-arguments.ts';
import { printJson } from './output.ts';
import { handedPasswords, PASSWORD_NEEDED, type PasswordOf, passwordOf } from './passwords.ts';
import { describeShortage } from './process-limits.ts';
import { type MountRecord, prepareRuntimeFiles, type RuntimeFiles, recordJson } from './runtime-directory.ts';
import type { Supervisor } from './supervisor.ts';
import { warmThread } from './threads.ts';

const ORPHANED = 'the command that started the mount is gone';

/** @returns the exit code, when the mount has ended */
export async function runMountProcess(request: MountRequest): Promise<number> {
  const isDaemon = !request.foreground;
  let supervisor: Supervisor;
  let files: RuntimeFiles | null = null;
  // started first: it loads its modules while this thread loads its own, opens the image and mounts
  const first = warmThread();
  let isReady = false;
  let record: MountRecord;
  try {
    files = prepareRuntimeFiles();
    removeLeftovers();
    const log = isDaemon ? daemonLog(files.logPath, request, () => !isReady) : stderrLog(request.debug);
    await guardProcess(request.debug, log);
    nameProcess(`imgfuse mount ${request.image} ${request.mountpoint}`);
    const password = isDaemon ? await passwordsFromParent(request) : ownPasswords(request);
    const { Supervisor } = await import('./supervisor.ts');
    supervisor = new Supervisor(request, files, first, log, { isDaemon, password });
    const current = supervisor;
    process.on('uncaughtException', (error) => current.crash(error));
    if (isDaemon) process.on('disconnect', () => isReady || current.stop(ORPHANED));
    record = await supervisor.start();
  } catch (error) {
    await first.discard();
    return reportFailure(error, isDaemon, files);
  }
  isReady = true;
  if (!isDaemon) {
    if (request.json) printJson(recordJson(record));
  } else if (!(await report({ type: 'ready', record }))) {
    supervisor.stop(ORPHANED);
  }
  return supervisor.ended();
}

function ownPasswords({ keyFile, keyEnv }: MountRequest): PasswordOf {
  return passwordOf({ 'key-file': keyFile, 'key-env': keyEnv });
}

/** What the command that started this process sends when it says so; it has the terminal and the environment. */
async function passwordsFromParent({ passwordsFollow }: MountRequest): Promise<PasswordOf> {
  if (passwordsFollow !== true) return handedPasswords(null, new Map());
  const message = await new Promise<PasswordMessage>((resolve, reject) => {
    process.once('message', (received) => resolve(received as PasswordMessage));
    process.once('disconnect', () => reject(new Error(ORPHANED)));
  });
  const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'base64'));
  return handedPasswords(
    message.given === null ? null : bytes(message.given),
    new Map(message.byImage.map(([path, password]) => [path, bytes(password)])),
  );
}

/** Until the mount answers, what concerns the user is shown by the command that started it, too. */
function daemonLog(path: string, request: MountRequest, isStarting: () => boolean): Log {
  const log = fileLog(path, request.debug);
  return (level, sentence) => {
    log(level, sentence);
    if (isStarting() && level !== 'debug' && level !== 'info') void report({ type: 'note', sentence });
  };
}

/** @returns whether the command that started this process was there to hear it */
function report(message: DaemonReport): Promise<boolean> {
  return new Promise((resolve) => {
    if (!process.connected || process.send === undefined) resolve(false);
    else process.send(message, undefined, {}, (error) => resolve(error === null));
  });
}

/** What was logged until now has been shown as well (daemonLog), so the log goes when the failure is heard, too. */
async function reportFailure(error: unknown, isDaemon: boolean, files: RuntimeFiles | null): Promise<number> {
  if (!isDaemon) throw error;
  const exitCode = mountExitCode(error);
  const sentence =
    error instanceof ImgfuseError
      ? describeError(error)
      : (describeShortage(error) ?? `internal error: ${(error as Error)?.stack ?? error}`);
  const needed =
    error instanceof ImgfuseError && error.context.operation === PASSWORD_NEEDED ? error.context.path : undefined;
  const failed = {
    type: 'failed',
    sentence,
    exitCode,
    ...(needed === undefined ? {} : { passwordNeeded: needed }),
  } as const;
  const isHeard = await report(failed);
  if (files !== null && isHeard) removeFile(files.logPath);
  else if (files !== null) fileLog(files.logPath, false)('error', sentence);
  return exitCode;
}
