// Programs of the system that do what Node cannot: mount(8), umount(8), losetup(8), and file systems in user space. Each runs in a
// session of its own, so that Ctrl-C at the terminal ends none of them halfway; the caller decides what a signal means.

import { spawn } from 'node:child_process';
import { exactCommand, PROGRAM_MISSING } from '../bytes/exact-command.ts';

/** Where the programs are, also for a user whose PATH has no directories of the administrator. */
const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

const OUTPUT_MAX = 4096;

/** How a program ended. */
export interface ProgramEnd {
  /** exit code; null if it was not started, or ended by a signal */
  readonly code: number | null;
  /** there is no such program */
  readonly missing: boolean;
  /** what it has written, in one line: some programs complain on standard output */
  readonly complaint: string;
}

/**
 * Runs a program and waits for its end. What it leaves running in the background, such as a FUSE server, is not waited for.
 * @param abort tells the program to end; its end is waited for all the same, because what it was doing may still come about
 */
export function runProgram(program: string, parameters: readonly string[], abort?: AbortSignal): Promise<ProgramEnd> {
  return new Promise((resolve) => {
    const [command, words] = exactCommand(program, parameters);
    const path = process.env['PATH'];
    const child = spawn(command, words, {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: '/',
      detached: true,
      env: { ...process.env, LC_ALL: 'C', PATH: path === undefined ? SYSTEM_PATH : `${path}:${SYSTEM_PATH}` },
    });
    const kill = (): void => void child.kill('SIGTERM');
    abort?.addEventListener('abort', kill);
    let text = '';
    for (const stream of [child.stdout, child.stderr]) {
      // without a free descriptor there is no pipe, and the error comes later
      stream?.setEncoding('utf8').on('data', (chunk: string) => {
        if (text.length < OUTPUT_MAX) text += chunk;
      });
    }
    child.on('error', ({ code, message }: NodeJS.ErrnoException) => {
      resolve({ code: null, missing: code === 'ENOENT', complaint: message });
    });
    child.on('exit', (code, signal) => {
      abort?.removeEventListener('abort', kill);
      // what was written before the end is in the pipe already
      setImmediate(() => {
        child.stdout?.destroy();
        child.stderr?.destroy();
        const complaint = text.trim().replaceAll(/\s*\n\s*/g, '; ') || (signal === null ? '' : `ended by ${signal}`);
        resolve({ code, missing: code === PROGRAM_MISSING, complaint });
      });
    });
  });
}
