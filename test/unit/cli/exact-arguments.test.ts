// Arguments with their bytes: from Node where it has them, from the command line of the process where not, or not at all.

import { expect, test } from 'vitest';
import { exactArguments } from '../../../src/cli/exact-arguments.ts';

const commandLine = (text: string): Uint8Array => Buffer.from(text, 'latin1');
const unread = (): null => {
  throw new Error('nothing asks for it');
};

test('arguments that are UTF-8 are taken as they are, and nothing is read', () => {
  expect(exactArguments(['info', 'größe', '', '\ufeffx'], unread)).toEqual(['info', 'größe', '', '\ufeffx']);
});

test('the last arguments of the command line are ours, those of Node stand before them', () => {
  const bytes = commandLine('node\0--max-old-space-size=9\0cli.js\0create\0\0caf\xe9\0');
  expect(exactArguments(['create', '', 'caf\ufffd'], () => bytes)).toEqual(['create', '', 'caf\udce9']);
});

test('a replacement character that was typed is one', () => {
  const bytes = commandLine('node\0cli.js\0a\xef\xbf\xbdb\0');
  expect(exactArguments(['a\ufffdb'], () => bytes)).toEqual(['a\ufffdb']);
});

test.each([
  ['that cannot be read', null],
  ['that has fewer arguments', 'caf\xe9\0'],
  ['of other words', 'node\0cli.js\0other\0caf\xe9\0'],
  ['that was overwritten', 'imgfuse mount x y'],
])('a command line %s refuses the name', (_, text) => {
  const bytes = text === null ? null : commandLine(text);
  expect(() => exactArguments(['info', 'caf\ufffd'], () => bytes)).toThrow(/the argument caf\ufffd is not UTF-8/);
});
