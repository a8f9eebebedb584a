// The process that serves a mount, in the foreground or in the background (start-mount.ts): sets up its log, reports that the
// mount answers or why it does not, and returns the exit code. supervisor.ts does the work between. The main thread runs everything
// in this folder; the threads that it starts are in keeper/ and workers/.

import type { OpenStep } from '../disk/index.ts';
import { mountExitCode } from '../errors/exit-codes.ts';
import { describeError, ImgfuseError } from '../errors/index.ts';
import { givenPassword, PASSWORD_NEEDED, type PasswordSource } from '../host/passwords.ts';
import { describeShortage } from '../host/process-limits.ts';
import { nameProcess } from '../host/processes.ts';
import { removeFile } from '../host/small-files.ts';
import { removeLeftovers } from '../mounts/leftovers.ts';
import {
  type MountRecord,
  type PreparedFiles,
  prepareRuntimeFiles,
  type RuntimeFiles,
} from '../mounts/runtime-directory.ts';
import { exitAtOnce } from '../native/index.ts';
import { guardProcess } from './environment.ts';
import { type FirstThreads, startFirstThreads } from './first-threads.ts';
import { fileLog, type Log, stderrLog } from './log.ts';
import type { MountRequest } from './mount-request.ts';
import { StartBrokenOff } from './mount-state.ts';
import { ORPHANED, passwordsFromStarter, report } from './starter.ts';
import type { Supervisor } from './supervisor.ts';

const EXIT_ORPHANED = 1;

/** Called during the start of a mount in the foreground. */
export interface Foreground {
  /** the open of the image has made progress */
  step(step: OpenStep): void;
  /** a line of the log follows */
  clear(): void;
  /** the image is open, or will not be */
  end(): void;
  /** the mount answers */
  ready(record: MountRecord): void;
}

/**
 * @param foreground null: the command that started this process is told, over their channel
 * @param threads started before this file was loaded, if there was time to win
 * @returns the exit code, at the end
 */
export async function runMountProcess(
  request: MountRequest,
  foreground: Foreground | null,
  { keeper, first }: FirstThreads = startFirstThreads(),
): Promise<number> {
  const isDaemon = foreground === null;
  let supervisor: Supervisor;
  let files: PreparedFiles | null = null;
  let isReady = false;
  let record: MountRecord;
  try {
    files = prepareRuntimeFiles();
    removeLeftovers();
    const log = isDaemon ? daemonLog(files.logPath, request, () => !isReady) : foregroundLog(request.debug, foreground);
    await guardProcess(request.debug, log);
    nameProcess(`imgfuse mount ${request.image} ${request.mountpoint}`);
    const passwords = isDaemon ? await passwordsFromStarter(request) : ownPasswords(request);
    const { Supervisor } = await import('./supervisor.ts');
    supervisor = new Supervisor(request, keeper, { files, log, isDaemon, first });
    const current = supervisor;
    process.on('uncaughtException', (error) => current.crash(error));
    if (isDaemon) process.on('disconnect', () => isReady || current.stop(ORPHANED, EXIT_ORPHANED));
    keeper.onStep = (step) => (isDaemon ? void report({ type: 'step', step }) : foreground.step(step));
    const started = supervisor.start(passwords);
    // gone before anybody listened
    if (isDaemon && !process.connected) supervisor.stop(ORPHANED, EXIT_ORPHANED);
    record = await started;
  } catch (error) {
    foreground?.end();
    if (error instanceof StartBrokenOff) {
      const sentence = `${error.message}: nothing is mounted, ${request.image} was still being opened`;
      if (isDaemon) await report({ type: 'failed', sentence, exitCode: error.exitCode });
      return endNow(error.exitCode);
    }
    await Promise.all([first.discard(), keeper.discard()]);
    return reportFailure(error, isDaemon, files);
  }
  foreground?.end();
  isReady = true;
  if (!isDaemon) {
    foreground.ready(record);
  } else if (!(await report({ type: 'ready', record }))) {
    supervisor.stop(ORPHANED, EXIT_ORPHANED);
  }
  const exitCode = await supervisor.ended();
  return supervisor.isStuck ? endNow(exitCode) : exitCode;
}

/** Ends this process although some threads are still busy. If Node cannot do that, the process kills itself. */
function endNow(exitCode: number): number {
  try {
    exitAtOnce(exitCode);
  } catch {
    process.kill(process.pid, 'SIGKILL');
  }
  return exitCode;
}

/** Clears the progress line before each log line, so that they do not share one. */
function foregroundLog(debug: boolean, foreground: Foreground): Log {
  const log = stderrLog(debug);
  return (level, sentence) => {
    foreground.clear();
    log(level, sentence);
  };
}

function ownPasswords({ keyFile, keyEnv }: MountRequest): PasswordSource {
  return { given: givenPassword({ 'key-file': keyFile, 'key-env': keyEnv }), byImage: new Map(), mayAsk: true };
}

/** Until the mount answers, the command that started it also shows warnings and errors to the user. */
function daemonLog(path: string, request: MountRequest, isStarting: () => boolean): Log {
  const log = fileLog(path, request.debug);
  return (level, sentence) => {
    log(level, sentence);
    if (isStarting() && level !== 'debug' && level !== 'info') void report({ type: 'note', sentence });
  };
}

/** Reports a failed start. If the command receives it, it has shown the warnings, too (daemonLog), so the log file is removed. */
async function reportFailure(error: unknown, isDaemon: boolean, files: RuntimeFiles | null): Promise<number> {
  if (!isDaemon) throw error;
  const exitCode = mountExitCode(error);
  const sentence =
    error instanceof ImgfuseError
      ? describeError(error)
      : (describeShortage(error) ?? `internal error: ${(error as Error)?.stack ?? error}`);
  const known = error instanceof ImgfuseError ? error : null;
  const operation = known?.context.operation;
  const needed = operation === PASSWORD_NEEDED ? known?.context.path : undefined;
  const failed = {
    type: 'failed',
    sentence,
    exitCode,
    ...(known === null ? {} : { kind: known.kind }),
    ...(operation === undefined ? {} : { operation }),
    ...(needed === undefined ? {} : { passwordNeeded: needed }),
  } as const;
  const isHeard = await report(failed);
  if (files !== null && isHeard) removeFile(files.logPath);
  else if (files !== null) fileLog(files.logPath, false)('error', sentence);
  return exitCode;
}
