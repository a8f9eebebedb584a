// Programs that are started with names that are not UTF-8: they get the bytes, and nothing in a name is code.

import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { exactCommand, PROGRAM_MISSING } from '../../../src/bytes/exact-command.ts';
import { bytesOfName, nameOfBytes } from '../../../src/bytes/names.ts';

const PRINT = ['-e', 'process.stdout.write(require("fs").readFileSync("/proc/self/cmdline"))', '--'];

test('names that are UTF-8 need no shell', () => {
  expect(exactCommand('sync', ['-f', '/mnt/ä b'])).toEqual(['sync', ['-f', '/mnt/ä b']]);
});

test('a program gets the bytes of every argument, whatever they are', () => {
  const argument = fc
    .array(
      fc.constantFrom('a', ' ', '\n', "'", '"', '\\', '$(id)', '`', '%', '\\0101', '\xe9', '\xff', 'x', '*', '-n'),
      { maxLength: 8 },
    )
    .map((parts) => nameOfBytes(Buffer.from(parts.join(''), 'latin1')));
  fc.assert(
    fc.property(fc.array(argument, { minLength: 1, maxLength: 4 }), (words) => {
      const [program, parameters] = exactCommand(process.execPath, [...PRINT, ...words, '\udcfe']);
      const { stdout } = spawnSync(program, parameters);
      const wanted = [...words, '\udcfe'].map((word) => Buffer.concat([bytesOfName(word), Buffer.alloc(1)]));
      expect(stdout.subarray(-Buffer.concat(wanted).length)).toEqual(Buffer.concat(wanted));
    }),
    { numRuns: 20 },
  );
});

test('a missing program has an exit code of its own', () => {
  expect(spawnSync(...exactCommand('imgfuse-no-such-program', ['\udce9'])).status).toBe(PROGRAM_MISSING);
});
