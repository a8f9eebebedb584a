// Protects a mount process before it opens anything: no core dump with guest data, no debugger, files that only the owner can
// read, and no memory reclaim that waits for this process itself.
// Invariant: if the host refuses one of these, that is logged and the mount goes on.
// guardProcess runs in the mount process, the other two in the command that starts it.

import { describeError } from '../errors/index.ts';
import { EXTRA_AUTHORITIES } from '../host/http/extra-authorities.ts';
import { forbidCoreDumps, setIoFlusher } from '../native/index.ts';
import type { Log } from './log.ts';

/** umask for every file, socket and log of the process. */
const UMASK = 0o077;
const INSPECTOR_OPTION = /^--(inspect|debug)(-[a-z-]+)?(=|$)/;

/** @param debug leaves the inspector open if the user opened it */
export async function guardProcess(debug: boolean, log: Log): Promise<void> {
  process.umask(UMASK);
  attempt('a program that collects cores may get one of this process', forbidCoreDumps, log);
  // threads that start later inherit this; workers also ask for it themselves
  attempt('this thread is not marked as an I/O flusher', setIoFlusher, log);
  if (!debug) await closeInspector(log);
}

function attempt(consequence: string, action: () => void, log: Log): void {
  try {
    action();
  } catch (error) {
    log('debug', `${consequence}: ${describeError(error)}`);
  }
}

/** Closes the inspector: a program that reaches its port can read and change guest data as the user of this process. */
async function closeInspector(log: Log): Promise<void> {
  // load the module only if the command line, NODE_OPTIONS or an early SIGUSR1 may have opened the inspector
  const inspector = await import('node:inspector');
  if (inspector.url() === undefined) return;
  inspector.close();
  log('warning', 'the inspector of Node is closed: a mount is only debugged in the foreground, with -d');
}

/** Without it, helper threads of V8's collector take the processors from other requests, and a read waits for them. */
const ONE_COLLECTOR = '--single-threaded-gc';
/** Node then does not open its inspector for a signal; not every version knows it. */
const DEAF = '--disable-sigusr1';

/** Node options for a mount process: those of this process without the inspector, and what a mount needs of V8. */
export function nodeOptions(options: readonly string[]): string[] {
  const kept = options.filter((option) => !INSPECTOR_OPTION.test(option));
  const added = process.allowedNodeEnvironmentFlags.has(DEAF) ? [DEAF, ONE_COLLECTOR] : [ONE_COLLECTOR];
  return [...kept, ...added.filter((option) => !kept.includes(option))];
}

/**
 * The environment of a mount process: NODE_OPTIONS opens no inspector in it, and Node does not read further certificates at its
 * start, which takes longer than all the rest of it. They are read if the image needs a server (extra-authorities.ts).
 */
export function environmentOfMountProcess(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const { NODE_EXTRA_CA_CERTS: authorities, NODE_OPTIONS: options, ...others } = environment;
  const words = options?.split(' ').filter((option) => !INSPECTOR_OPTION.test(option));
  return {
    ...others,
    ...(words === undefined ? {} : { NODE_OPTIONS: words.join(' ') }),
    ...(authorities === undefined ? {} : { [EXTRA_AUTHORITIES]: authorities }),
  };
}
