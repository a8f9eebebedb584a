// What commands print: answers on stdout (for people or as JSON), sentences about failures on stderr.
// Invariants: writing never throws, because a closed pipe must not end a process that serves a mount; what is printed is out
// when the call returns, because the end of a process does not wait for Node's streams.

import { printable, printableSentence } from '../bytes/printable.ts';
import { EXIT_OK, EXIT_USAGE } from '../errors/exit-codes.ts';
import { describeError, ImgfuseError } from '../errors/index.ts';
import { writeText } from '../host/descriptors.ts';
import { describeShortage } from '../host/process-limits.ts';

export type OutputMode = 'human' | 'json';

/** Characters that are put together before they are written. */
const PIECE_LENGTH = 64 * 1024;

/** said where Node cannot make a relative path absolute */
const NO_DIRECTORY =
  'the working directory does not exist any more, and relative paths lead nowhere; give absolute ones';

/** an answer did not get out, and not because its reader has seen enough (EPIPE) */
let isLost = false;

/** A line on stdout; that it got lost is told once. */
export function print(line: string): void {
  write(`${line}\n`);
}

/**
 * Texts on stdout, one after the other, in memory that does not grow with them: what is written waits for its reader, and what
 * comes next is made afterwards. When nobody reads any more, or nothing can be written, the rest is not made.
 */
export function printPieces(texts: Iterable<string>): void {
  let piece = '';
  for (const text of texts) {
    piece += text;
    if (piece.length < PIECE_LENGTH) continue;
    if (!write(piece)) return;
    piece = '';
  }
  if (piece !== '') write(piece);
}

/** Lines on stdout; see printPieces. */
export function printLines(lines: Iterable<string>): void {
  printPieces(endLines(lines));
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
  printPieces(withEndOfLine(jsonPieces(value, '')));
}

/** @returns whether the text is out */
function write(text: string): boolean {
  try {
    writeText(1, text);
    return true;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'EPIPE' && !isLost) {
      isLost = true;
      complain(`standard output cannot be written: ${message}`);
    }
    return false;
  }
}

function* withEndOfLine(pieces: Iterable<string>): Generator<string> {
  yield* pieces;
  yield '\n';
}

function* endLines(lines: Iterable<string>): Generator<string> {
  for (const line of lines) yield `${line}\n`;
}

/** The text of JSON.stringify(value, undefined, 4) in pieces. A list may be anything that can be iterated. */
export function* jsonPieces(value: unknown, indent: string): Generator<string> {
  if (value instanceof ExactNumber) {
    yield value.digits;
    return;
  }
  if (typeof value !== 'object' || value === null) {
    yield JSON.stringify(value) ?? 'null';
    return;
  }
  const isList = Symbol.iterator in value;
  const inner = `${indent}    `;
  let isEmpty = true;
  for (const member of isList ? (value as Iterable<unknown>) : Object.entries(value)) {
    const [name, content] = isList ? [null, member] : (member as [string, unknown]);
    if (name !== null && content === undefined) continue;
    yield `${isEmpty ? (isList ? '[' : '{') : ','}\n${inner}${name === null ? '' : `${JSON.stringify(name)}: `}`;
    yield* jsonPieces(content, inner);
    isEmpty = false;
  }
  if (isEmpty) yield isList ? '[]' : '{}';
  else yield `\n${indent}${isList ? ']' : '}'}`;
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
