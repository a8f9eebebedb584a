// The table of judged mutants that the processes of a fuzz run share.

import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { seededRandom } from '../../support/random.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

interface Key {
  add(word: number): void;
  end(): Key;
}
interface Table {
  add(key: Key): boolean;
}
interface Module {
  readonly KnownMutants: new (descriptor: number, bytes: number) => Table;
  readonly MutantKey: new () => Key;
}

const { KnownMutants, MutantKey }: Module = await import(new URL('../../support/fuzz-known.mjs', import.meta.url).href);

function keyOf(...words: readonly number[]): Key {
  const key = new MutantKey();
  for (const word of words) key.add(word);
  return key.end();
}

test('a mutant is new once, for every process that has the table open', () => {
  const folder = makeTemporaryDirectory();
  const descriptor = openSync(join(folder, 'table'), 'w+');
  try {
    ftruncateSync(descriptor, 65536);
    const tables = [new KnownMutants(descriptor, 65536), new KnownMutants(descriptor, 65536)];
    const random = seededRandom(7);
    const known = new Set<string>();
    for (let n = 0; n < 3000; n++) {
      // 900 keys in 8192 slots: no bucket of eight is full
      const words = [Math.floor(random() * 30), Math.floor(random() * 30)];
      expect(tables[n % 2]!.add(keyOf(...words))).toBe(!known.has(String(words)));
      known.add(String(words));
    }
    expect(known.size).toBeGreaterThan(800);
  } finally {
    closeSync(descriptor);
    removeTemporaryDirectory(folder);
  }
});

test('keys depend on every word and on the order of the words', () => {
  const keys = [[], [0], [0, 0], [1, 2], [2, 1], [1, 2, 0], [2 ** 31, 0], [0, 2 ** 31], [-1]].map((words) =>
    keyOf(...words),
  );
  expect(new Set(keys.map((key) => JSON.stringify(key))).size).toBe(keys.length);
});
