// The log of a mount: one line per sentence, to stderr (foreground), to a file (daemon), or with the priority prefixes that the
// systemd journal reads. The main thread writes it; the other threads send their lines to the main thread.
// Invariant: logging never throws and never blocks the mount.

import { printableSentence } from '../bytes/printable.ts';
import { describeError, ImgfuseError, isOutOfSpace } from '../errors/index.ts';
import { writeLine } from '../host/descriptors.ts';
import { appendLine } from '../host/small-files.ts';

/** a repeated error is logged again after this time */
const REPEAT_MS = 60_000;
const TOLD_MAX = 100;

/** Priorities of syslog(3). */
const PRIORITY = { error: 3, warning: 4, notice: 5, info: 6, debug: 7 } as const;

export type LogLevel = keyof typeof PRIORITY;

export type Log = (level: LogLevel, sentence: string) => void;

/** Lines on stderr, with a prefix `<3>` to `<7>` if stderr is the journal. */
export function stderrLog(debug: boolean, journal: boolean = process.env['JOURNAL_STREAM'] !== undefined): Log {
  return (level, sentence) => {
    if (level === 'debug' && !debug) return;
    const text = printableSentence(sentence);
    writeLine(2, journal ? `<${PRIORITY[level]}>${text}` : `imgfuse: ${text}`);
  };
}

/** Lines with date and level in a file; removeQuietLog() of leftovers.ts knows the level by its place. */
export function fileLog(path: string, debug: boolean): Log {
  return (level, sentence) => {
    if (level === 'debug' && !debug) return;
    appendLine(path, `${new Date().toISOString()} ${level}: ${printableSentence(sentence)}`);
  };
}

/** Logs failed requests. A failing disk fails every request, so a repeated sentence is logged only now and then. */
export function requestErrorLog(log: Log): (error: unknown, operation: string) => void {
  const toldAt = new Map<string, number>();
  return (error, operation) => {
    const sentence = `${operation} failed: ${error instanceof ImgfuseError ? describeError(error) : stackOf(error)}`;
    const now = performance.now();
    if (now - (toldAt.get(sentence) ?? -REPEAT_MS) < REPEAT_MS) return;
    if (toldAt.size >= TOLD_MAX) toldAt.clear();
    toldAt.set(sentence, now);
    // nothing is lost: it is tried again
    log(isOutOfSpace(error) ? 'warning' : 'error', sentence);
  };
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
