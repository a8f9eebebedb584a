// What commands print: answers on stdout (for people or as JSON), sentences about failures on stderr.
// Writing never throws: a closed pipe must not end a process that serves a mount.

import { describeError, ImgfuseError } from '../errors/index.ts';

export type OutputMode = 'human' | 'json';

/** A line on stdout. */
export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** A value as indented JSON on stdout, members that are undefined left out. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, undefined, 4));
}

/** A sentence on stderr, after the name of the program. */
export function complain(sentence: string): void {
  process.stderr.write(`imgfuse: ${sentence}\n`);
}

/** The one sentence about an error that ends a command; a bug shows its stack, because only that helps to mend it. */
export function complainAbout(error: unknown): void {
  if (error instanceof ImgfuseError) complain(describeError(error));
  else complain(`internal error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
}

/** Rows under a heading, each column as wide as its widest cell. */
export function formatTable(rows: readonly (readonly string[])[]): string {
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
