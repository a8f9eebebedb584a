// What a mount process does about its surroundings before it opens anything: guest data stays in it, nobody debugs it from
// outside, what it creates is its owner's alone, and memory reclaim does not wait for itself through it.
// Invariant: what the host does not allow is logged, and the mount goes on without.
// guardProcess runs in the mount process, the other two in the command that starts it.

import { describeError } from '../errors/index.ts';
import { forbidCoreDumps, setIoFlusher } from '../native/index.ts';
import type { Log } from './log.ts';

/** Bits taken from every file, socket and log that the process makes. */
const UMASK = 0o077;
const INSPECTOR_OPTION = /^--(inspect|debug)(-[a-z-]+)?(=|$)/;

/** @param debug the inspector stays as the user opened it */
export async function guardProcess(debug: boolean, log: Log): Promise<void> {
  process.umask(UMASK);
  attempt('a program that collects cores may get one of this process', forbidCoreDumps, log);
  // threads that are started from now on inherit it; workers ask for it themselves as well
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

/** Whoever reaches the port reads and changes guest data, as this process's user. */
async function closeInspector(log: Log): Promise<void> {
  // loaded by name only when the command line, NODE_OPTIONS or an early SIGUSR1 may have opened it
  const inspector = await import('node:inspector');
  if (inspector.url() === undefined) return;
  inspector.close();
  log('warning', 'the inspector of Node is closed: a mount is only debugged in the foreground, with -d');
}

/** Options of Node for a mount process: those of this process without the inspector, and deaf to SIGUSR1 where Node can be. */
export function nodeOptions(options: readonly string[]): string[] {
  const kept = options.filter((option) => !INSPECTOR_OPTION.test(option));
  const deaf = '--disable-sigusr1';
  return process.allowedNodeEnvironmentFlags.has(deaf) && !kept.includes(deaf) ? [...kept, deaf] : kept;
}

/** The environment of a mount process: NODE_OPTIONS opens no inspector in it. */
export function environmentWithoutInspector(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const options = environment['NODE_OPTIONS'];
  if (options === undefined) return environment;
  const words = options.split(' ').filter((option) => !INSPECTOR_OPTION.test(option));
  return { ...environment, NODE_OPTIONS: words.join(' ') };
}
