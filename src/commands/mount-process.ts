// The process that serves a mount, in the foreground or started by daemon.ts: where its log goes, how it reports that the
// mount answers or why it does not, and its exit code. What it does between is the supervisor's.

import { describeError, ImgfuseError } from '../errors/index.ts';
import type { DaemonReport } from './daemon.ts';
import { mountExitCode } from './exit-codes.ts';
import { nameProcess } from './host-paths.ts';
import { fileLog, type Log, stderrLog } from './log.ts';
import type { MountRequest } from './mount-arguments.ts';
import { printJson } from './output.ts';
import { type MountRecord, prepareRuntimeFiles, recordJson } from './runtime-directory.ts';
import { Supervisor } from './supervisor.ts';

/** @returns the exit code, when the mount has ended */
export async function runMountProcess(request: MountRequest): Promise<number> {
  const isDaemon = !request.foreground;
  let supervisor: Supervisor | null = null;
  let isReady = false;
  let record: MountRecord;
  try {
    const files = prepareRuntimeFiles();
    const log = isDaemon ? daemonLog(files.logPath, request, () => !isReady) : stderrLog(request.debug);
    nameProcess(`imgfuse mount ${request.image} ${request.mountpoint}`);
    supervisor = new Supervisor(request, files, log, isDaemon);
    const current = supervisor;
    process.on('uncaughtException', (error) => current.crash(error));
    if (isDaemon) process.on('disconnect', () => isReady || current.stop('the command that started the mount is gone'));
    record = await supervisor.start();
  } catch (error) {
    return reportFailure(error, isDaemon);
  }
  isReady = true;
  if (isDaemon) report({ type: 'ready', record });
  else if (request.json) printJson(recordJson(record));
  return supervisor.ended();
}

/** Until the mount answers, what concerns the user is shown by the command that started it, too. */
function daemonLog(path: string, request: MountRequest, isStarting: () => boolean): Log {
  const log = fileLog(path, request.debug);
  return (level, sentence) => {
    log(level, sentence);
    if (isStarting() && level !== 'debug' && level !== 'info') report({ type: 'note', sentence });
  };
}

function report(message: DaemonReport): void {
  if (process.connected) process.send?.(message, undefined, {}, () => {});
}

async function reportFailure(error: unknown, isDaemon: boolean): Promise<number> {
  const exitCode = mountExitCode(error);
  if (!isDaemon || !process.connected) throw error;
  const sentence =
    error instanceof ImgfuseError ? describeError(error) : `internal error: ${(error as Error)?.stack ?? error}`;
  const message: DaemonReport = { type: 'failed', sentence, exitCode };
  await new Promise<void>((resolve) => process.send?.(message, undefined, {}, () => resolve()));
  return exitCode;
}
