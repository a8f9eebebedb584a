// A process without a free file descriptor: Node then has no pipe to a program that it cannot start, and says why only later. What
// asks such a program answers as if it were not there, and the process goes on.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { isBuilt } from '../support/image-files.ts';
import { requireOrSkip } from '../support/requirements.ts';

const SCRIPT = fileURLToPath(new URL('../support/without-descriptors.mjs', import.meta.url));

test('a program that cannot be started for want of descriptors is missing, and nothing is thrown', (context) => {
  requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
  const { stdout, stderr } = spawnSync('sh', ['-c', 'ulimit -n 64; exec "$0" "$@"', process.execPath, SCRIPT], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  expect(stderr).toBe('');
  expect(stdout.trimEnd().split('\n')).toEqual([
    'limit: EMFILE',
    'askBlkid: {"kind":"unavailable"}',
    'askForProcesses: []',
    expect.stringMatching(/^runProgram: \{"code":null,"missing":false,"complaint":"spawn \/bin\/true EMFILE"\}$/),
  ]);
});
