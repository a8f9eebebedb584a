// What commands print: answers on stdout (for people or as JSON), sentences about failures on stderr.
// Invariants: writing never throws, because a closed pipe must not end a process that serves a mount; what is printed is out
// when the call returns, because the end of a process does not wait for Node's streams.

import { randomUUID } from 'node:crypto';
import { bytesOfName } from '../bytes/names.ts';
import { describeError, ImgfuseError } from '../errors/index.ts';
import { EXIT_OK, EXIT_USAGE } from './exit-codes.ts';
import { writeText } from './host-paths.ts';
import { describeShortage } from './process-limits.ts';

export type OutputMode = 'human' | 'json';

/** said where Node cannot make a relative path absolute */
const NO_DIRECTORY =
  'the working directory does not exist any more, and relative paths lead nowhere; give absolute ones';

/** an answer did not get out, and not because its reader has seen enough (EPIPE) */
let isLost = false;

/** A line on stdout; that it got lost is told once. */
export function print(line: string): void {
  try {
    writeText(1, `${line}\n`);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'EPIPE' || isLost) return;
    isLost = true;
    complain(`standard output cannot be written: ${message}`);
  }
}

/** An integer beyond what a number says exactly, in digits; printJson prints them as a number of JSON. */
export class ExactNumber {
  readonly digits: string;

  constructor(digits: string) {
    this.digits = digits;
  }
}

/** A number where it is exact. */
export function exactNumber(digits: string): number | ExactNumber {
  return Number.isSafeInteger(Number(digits)) ? Number(digits) : new ExactNumber(digits);
}

/** A value as indented JSON on stdout, members that are undefined left out. */
export function printJson(value: unknown): void {
  print(formatJson(value));
}

export function formatJson(value: unknown): string {
  // stands before digits while they are a text: nobody can know it and put it into a name
  const mark = randomUUID();
  const replace = (_key: string, each: unknown): unknown => (each instanceof ExactNumber ? mark + each.digits : each);
  return JSON.stringify(value, replace, 4).replaceAll(new RegExp(`"${mark}(\\d+)"`, 'g'), '$1');
}

/** The exit code of a command that is run for what it prints; that of one which changes something says whether that is done. */
export function answered(exitCode: number): number {
  return isLost && exitCode === EXIT_OK ? EXIT_USAGE : exitCode;
}

/** A text on stderr as it is; there is nowhere to tell that it cannot be written. */
export function printError(text: string): void {
  try {
    writeText(2, text);
  } catch {}
}

/** A sentence on stderr, after the name of the program. */
export function complain(sentence: string): void {
  printError(`imgfuse: ${printableSentence(sentence)}\n`);
}

/** The one sentence about an error that ends a command; a bug shows its stack, because only that helps to mend it. */
export function complainAbout(error: unknown): void {
  const shortage = describeShortage(error);
  if (error instanceof ImgfuseError) complain(describeError(error));
  else if (shortage !== null) complain(shortage);
  else if ((error as NodeJS.ErrnoException | null)?.syscall === 'uv_cwd') complain(NO_DIRECTORY);
  else complain(`internal error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
}

/** Control characters, ends of lines, what turns the direction of a line around, and bytes that are not UTF-8 (bytes/names.ts). */
const UNPRINTABLE = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;
const STACK_LINE = '\n    at ';

/** A name as one reads it, on one line and without effect on a terminal: the octal of the mount table. JSON has names as they are. */
export function printable(name: string): string {
  return name.replace(UNPRINTABLE, (character) =>
    Array.from(bytesOfName(character), (byte) => `\\${byte.toString(8).padStart(3, '0')}`).join(''),
  );
}

/** A sentence with names in it; only the stack of a bug has several lines. */
export function printableSentence(sentence: string): string {
  return sentence.split(STACK_LINE).map(printable).join(STACK_LINE);
}

/** A word for a POSIX shell; what no screen shows as it is, is written in octal. */
export function shellQuote(word: string): string {
  const escaped = word.replace(/[\\']/g, '\\$&');
  if (printable(word) !== word) return `$'${printable(escaped)}'`;
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Rows under a heading, each column as wide as its widest cell. */
export function formatTable(table: readonly (readonly string[])[]): string {
  const rows = table.map((row) => row.map(printable));
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    });
  }
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  return lines.join('\n');
}

/** `count` with the noun in the right number. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
