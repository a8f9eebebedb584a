// What the built program loads for a command. Loading takes longer than most answers, and beside a mount that keeps every processor
// busy it took seconds: engines, packages and modules of Node that a path does not need are not loaded on it.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const LOADER = fileURLToPath(new URL('../../../dist/program/load.cjs', import.meta.url));
/** Runs a command and says what was loaded until its end. */
const SCRIPT = `
  const [, loader, ...words] = process.argv;
  const { load, chunks } = require(loader);
  load('main.cjs').main(words, 'imgfuse').then((code) => {
    const builtins = process.moduleLoadList.flatMap((name) => name.split('NativeModule ').slice(1));
    const { readFileSync, writeSync } = require('node:fs');
    const sources = [...chunks.keys()].flatMap((name) => {
      const text = readFileSync(loader.replace('load.cjs', name), 'utf8');
      return [...text.matchAll(/^\\/\\/ ((?:dist|node_modules)\\/\\S+)$/gm)].map(([, source]) => source);
    });
    writeSync(2, '\\n' + JSON.stringify({ code, sources, builtins, files: Object.keys(require.cache) }));
  });`;

const ENGINES = /^dist\/(format|disk|filesystem)\//;
const UNDICI = /^node_modules\/undici\//;
const PACKAGES = /^node_modules\//;
const ALL_COMMANDS = /^dist\/cli\/all-commands\.js$/;

interface Loaded {
  readonly code: number;
  /** modules of the program, and of the packages in it */
  readonly sources: readonly string[];
  /** of Node */
  readonly builtins: readonly string[];
  readonly files: readonly string[];
}

let folder: string;
let image: string;
beforeAll(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'a.qcow2');
  loadedBy('create', '-f', 'qcow2', image, '1M');
});
afterAll(() => removeTemporaryDirectory(folder));

function loadedBy(...words: readonly string[]): Loaded {
  const env = { ...process.env, IMGFUSE_RUNTIME_DIR: folder };
  const { stderr } = spawnSync(process.execPath, ['-e', SCRIPT, LOADER, ...words], { env, encoding: 'utf8' });
  const loaded = JSON.parse(stderr.trimEnd().split('\n').at(-1)!) as Loaded;
  expect(loaded.code, stderr).toBe(0);
  return loaded;
}

function matching({ sources }: Loaded, pattern: RegExp): string[] {
  return sources.filter((source) => pattern.test(source));
}

/** Whether a native package was loaded. */
function hasKoffi({ files }: Loaded): boolean {
  return files.some((file) => file.includes('koffi'));
}

test('--version loads no engine, no package, and no module of Node but a few small ones', () => {
  const loaded = loadedBy('--version');
  for (const pattern of [ENGINES, PACKAGES, ALL_COMMANDS]) expect(matching(loaded, pattern)).toEqual([]);
  expect(hasKoffi(loaded)).toBe(false);
  const large = ['crypto', 'zlib', 'net', 'child_process', 'worker_threads', 'stream', 'tty'];
  expect(loaded.builtins.filter((name) => large.includes(name))).toEqual([]);
});

test('status loads no engine, no package, and not the list of all commands', () => {
  const loaded = loadedBy('status');
  expect(matching(loaded, /^dist\/cli\/commands\/status\.js$/)).toHaveLength(1);
  for (const pattern of [ENGINES, PACKAGES, ALL_COMMANDS]) expect(matching(loaded, pattern)).toEqual([]);
  expect(hasKoffi(loaded)).toBe(false);
});

test.each([
  'info',
  'check',
  'map',
])('%s of a local file loads its engine, no package, and neither TLS nor child_process', (command) => {
  const loaded = loadedBy(command, image);
  expect(matching(loaded, ENGINES)).not.toEqual([]);
  for (const pattern of [PACKAGES, ALL_COMMANDS]) expect(matching(loaded, pattern)).toEqual([]);
  const large = ['tls', 'http', 'https', 'net', 'child_process', 'zlib'];
  expect(loaded.builtins.filter((name) => large.includes(name))).toEqual([]);
});

test('the help loads yargs, but neither undici nor its tables of emoji', () => {
  const loaded = loadedBy('help', 'create');
  expect(matching(loaded, /^node_modules\/yargs\//)).not.toEqual([]);
  expect(matching(loaded, UNDICI)).toEqual([]);
  expect(matching(loaded, /get-east-asian-width|emoji/)).toEqual([]);
  expect(loaded.files.filter((file) => file.includes('string-width'))).toEqual([]);
});
