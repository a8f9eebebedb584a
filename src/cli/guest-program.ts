// Runs the program of `attach ... -- COMMAND` in the guest's directory and waits for it, as a shell would.

import { spawn } from 'node:child_process';
import { exactCommand } from '../bytes/exact-command.ts';
import type { Attachment } from '../guest/attachments.ts';
import { type Interruption, signalExitCode } from './interruption.ts';
import { complain } from './output.ts';

/** Exit codes of a shell for a program that is not there, or is none. */
const EXIT_NOT_FOUND = 127;
const EXIT_NOT_RUNNABLE = 126;
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such program',
  EACCES: 'it is no program, or you may not run it',
};

/** @returns the exit code of the program; signals that reach this process are passed on to it */
export function runGuestProgram(
  [program = '', ...parameters]: readonly string[],
  { directory, image, raw, partitions }: Attachment,
  interruption: Interruption,
): Promise<number> {
  return new Promise((resolve) => {
    const [command, words] = exactCommand(program, parameters);
    const child = spawn(command, words, {
      stdio: 'inherit',
      cwd: directory,
      env: {
        ...process.env,
        IMGFUSE_DIR: directory,
        IMGFUSE_IMAGE: image,
        IMGFUSE_DISK: raw,
        IMGFUSE_PARTITION: partitions.map(({ number }) => number ?? '').join(' '),
      },
    });
    interruption.passTo(child);
    child.on('error', ({ code, message }: NodeJS.ErrnoException) => {
      complain(`${program} cannot be run: ${REASONS[code ?? ''] ?? message}`);
      resolve(code === 'ENOENT' ? EXIT_NOT_FOUND : EXIT_NOT_RUNNABLE);
    });
    child.on('exit', (code, signal) => resolve(signal === null ? (code ?? EXIT_NOT_RUNNABLE) : signalExitCode(signal)));
  });
}
