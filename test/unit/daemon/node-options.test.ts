// The options of Node that a mount process gets from the command that starts it.

import { expect, test } from 'vitest';
import { nodeOptions } from '../../../src/daemon/environment.ts';

test('a mount process has one thread for garbage collection, and the options of its command without the inspector', () => {
  const options = nodeOptions(['--inspect=0', '--max-old-space-size=64', '--inspect-brk']);
  expect(options).toEqual(expect.arrayContaining(['--max-old-space-size=64', '--single-threaded-gc']));
  expect(options.join(' ')).not.toContain('inspect');
});

test('an option that is there already is not repeated', () => {
  expect(nodeOptions(nodeOptions([]))).toEqual(nodeOptions([]));
});
