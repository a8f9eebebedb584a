// A piece of a long proof that never ends is ended, and named.

import { fork } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { answerOf } from '../../support/piece-processes.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

test('a process that hangs in a piece is killed, and the piece is named', async () => {
  const folder = makeTemporaryDirectory();
  try {
    const path = join(folder, 'hangs.mjs');
    writeFileSync(path, "process.on('message', () => { for (;;); });");
    const piece = { proof: 'cuts', kind: 0, seed: 42, number: 7, most: 1 } as const;
    await expect(answerOf(fork(path), piece, 1000)).rejects.toThrow(/"seed":42,"number":7.*has ended: SIGKILL/);
  } finally {
    removeTemporaryDirectory(folder);
  }
});
