// Names and sentences on a terminal and in a shell, whatever is in them.

import { describe, expect, it } from 'vitest';
import { printable, printableSentence, shellQuote } from '../../../src/bytes/printable.ts';

describe('names', () => {
  const evil = '/a\nb\x1b[2J\x7f\u0085\u2028\u202ec é';
  const shown = '/a\\012b\\033[2J\\177\\302\\205\\342\\200\\250\\342\\200\\256c é';
  it('keep what a terminal would act on in octal, as the mount table does', () => {
    expect(printable(evil)).toBe(shown);
    expect(printable('/it\'s "a" \\ name')).toBe('/it\'s "a" \\ name');
  });
  it('stay on one line of a sentence, but a stack keeps its own', () => {
    expect(printableSentence(`${evil} is busy`)).toBe(`${shown} is busy`);
    expect(printableSentence('Error: x\n    at f (a:1)\n    at g (a:2)')).toBe(
      'Error: x\n    at f (a:1)\n    at g (a:2)',
    );
  });
  it('that a shell would not take from a screen are quoted so that it does', () => {
    expect(shellQuote('/a b')).toBe("'/a b'");
    expect(shellQuote("/a\nb\x1b'\\c")).toBe("$'/a\\012b\\033\\'\\\\c'");
  });
});
