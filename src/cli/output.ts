// The output of commands: answers on stdout (as text or JSON), errors as sentences on stderr.
// Invariants: writing never throws, because a closed pipe must not end a process that serves a mount. Output is written when the
// call returns, because the end of a process does not wait for Node's streams.

import { printable, printableSentence } from '../bytes/printable.ts';
import { EXIT_OK, EXIT_USAGE } from '../errors/exit-codes.ts';
import { describeError, ImgfuseError } from '../errors/index.ts';
import { writeText } from '../host/descriptors.ts';
import { describeShortage } from '../host/process-limits.ts';

export type OutputMode = 'human' | 'json';

/** Size of the buffer for pieces of output, in characters. */
const PIECE_LENGTH = 64 * 1024;

/** the message if Node cannot make a relative path absolute */
const NO_DIRECTORY =
  'the working directory does not exist any more, and relative paths lead nowhere; give absolute ones';

/** an answer could not be written, for another reason than a closed pipe (EPIPE) */
let isLost = false;

/** Prints a line on stdout. If output is lost, it says so once. */
export function print(line: string): void {
  write(`${line}\n`);
}

/**
 * Prints texts on stdout, one after the other, in bounded memory: each is made after the one before was written. If the pipe is
 * closed or a write fails, the rest is not made.
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

/** Prints lines on stdout; see printPieces(). */
export function printLines(lines: Iterable<string>): void {
  printPieces(endLines(lines));
}

/** An integer too large for a number, in digits. printJson() prints it as a JSON number. */
export class ExactNumber {
  readonly digits: string;

  constructor(digits: string) {
    this.digits = digits;
  }
}

/** @returns a number if it is exact */
export function exactNumber(digits: string): number | ExactNumber {
  return Number.isSafeInteger(Number(digits)) ? Number(digits) : new ExactNumber(digits);
}

/** Prints a value as indented JSON on stdout, without undefined members. */
export function printJson(value: unknown): void {
  printPieces(withEndOfLine(jsonPieces(value, '')));
}

/** @returns whether the text was written */
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

/** The text of JSON.stringify(value, undefined, 4) in pieces. A list may be any iterable. */
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

/** Exit code of a command whose purpose is its output. Commands that change something return whether that worked. */
export function answered(exitCode: number): number {
  return isLost && exitCode === EXIT_OK ? EXIT_USAGE : exitCode;
}

/** Prints a text on stderr. Errors are ignored, because there is no place to report them. */
export function printError(text: string): void {
  try {
    writeText(2, text);
  } catch {}
}

/** Prints a sentence on stderr, after the name of the program. */
export function complain(sentence: string): void {
  printError(`imgfuse: ${printableSentence(sentence)}\n`);
}

/** The sentence for an error that ends a command. An internal error also shows its stack, which is needed to fix it. */
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
