#!/usr/bin/env node
// Puts the compiled modules of dist/ together for the program that people start: dist/cli.js with its chunks and threads in
// dist/program/. A command then loads a handful of files instead of a hundred, with the code that V8 has compiled when the
// program was built (bundle/code-cache.mjs). The modules stay beside it for the tests, which load single ones. Nothing is
// renamed or squeezed, so that stack traces stay readable.

import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'rolldown';
import { makeCodeCache } from './bundle/code-cache.mjs';
import { asciiWidth, entryOf, inBundle, lazyBuiltins, replaceOnce } from './bundle/transforms.mjs';

const dist = fileURLToPath(new URL('../dist/', import.meta.url));
const program = `${dist}program/`;

/** Where a process or a thread begins. */
const entries = {
  main: `${dist}cli/main.js`,
  'keeper-thread': `${dist}daemon/keeper/keeper-thread.js`,
  worker: `${dist}daemon/workers/worker.js`,
  'network-thread': `${dist}host/http/network-thread.js`,
};

rmSync(program, { recursive: true, force: true });
mkdirSync(program);
const { output } = await build({
  input: entries,
  platform: 'node',
  // these find what belongs to them from where they lie
  external: [/^(koffi|fuse-native)(\/|$)/],
  plugins: [inBundle, asciiWidth],
  output: {
    dir: program,
    // the loader can give V8 its compiled code for a script, and Node cannot for a module
    format: 'cjs',
    // one byte for a character, in memory as well
    charset: 'ascii',
    comments: { jsdoc: false },
    entryFileNames: '[name].cjs',
    chunkFileNames: '[name].cjs',
  },
  logLevel: 'warn',
});
for (const { fileName } of output) {
  const file = `${program}${fileName}`;
  writeFileSync(file, lazyBuiltins(readFileSync(file, 'utf8'), fileName));
}
copyFileSync(new URL('bundle/load.cjs', import.meta.url), `${program}load.cjs`);
for (const name of Object.keys(entries).filter((each) => each !== 'main')) {
  writeFileSync(`${program}${name}-entry.cjs`, entryOf(`${basename(name)}.cjs`));
}
// tsc has just written it anew
const cli = readFileSync(`${dist}cli.js`, 'utf8');
const load = "createRequire(import.meta.url)('./program/load.cjs').load('main.cjs')";
const loaded = replaceOnce(cli, /await import\(['"]\.\/cli\/main\.js['"]\)/, load);
writeFileSync(`${dist}cli.js`, replaceOnce(loaded, /^#!.*\n/, "$&import { createRequire } from 'node:module';\n"));
makeCodeCache(program);
