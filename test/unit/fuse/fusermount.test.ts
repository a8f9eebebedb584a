// The helper that unmounts for ordinary users, replaced by a script that says how it was called.

import { readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { fusermountUnmount } from '../../../src/fuse/fusermount.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
});

afterEach(() => {
  vi.unstubAllEnvs();
  removeTemporaryDirectory(folder);
});

test('runs in a session of its own, where signals to our process group do not reach it', () => {
  const said = join(folder, 'said');
  const script = `#!/bin/sh\nread -r stat < /proc/self/stat\necho "$stat" > '${said}'\necho "$*" >> '${said}'\n`;
  writeFileSync(join(folder, 'fusermount3'), script, { mode: 0o755 });
  vi.stubEnv('PATH', `${folder}${delimiter}${process.env['PATH']}`);
  fusermountUnmount('/mnt/img', true);
  const [stat, parameters] = readFileSync(said, 'utf8').split('\n');
  expect(parameters).toBe('-u -z -- /mnt/img');
  const [pid, , , , group, session] = stat!.split(' ');
  expect([group, session]).toEqual([pid, pid]);
});
