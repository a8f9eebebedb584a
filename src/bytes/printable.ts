// Names and sentences as a terminal, a log or a shell takes them. Invariant: what comes from outside has no effect on a terminal,
// and a sentence stays on its line.

import { bytesOfName } from './names.ts';

/** Control characters, ends of lines, marks that turn the direction of text, and bytes that are not UTF-8 (bytes/names.ts). */
const UNPRINTABLE = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;
const STACK_LINE = '\n    at ';

/** A name on one line and without effect on a terminal, in the octal of the mount table. JSON has names as they are. */
export function printable(name: string): string {
  return name.replace(UNPRINTABLE, (character) =>
    Array.from(bytesOfName(character), (byte) => `\\${byte.toString(8).padStart(3, '0')}`).join(''),
  );
}

/** A sentence with names in it. Only the stack of a bug has several lines. */
export function printableSentence(sentence: string): string {
  return sentence.split(STACK_LINE).map(printable).join(STACK_LINE);
}

/** A word for a POSIX shell, with unprintable characters in octal. */
export function shellQuote(word: string): string {
  const escaped = word.replace(/[\\']/g, '\\$&');
  if (printable(word) !== word) return `$'${printable(escaped)}'`;
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
