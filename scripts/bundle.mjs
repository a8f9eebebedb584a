#!/usr/bin/env node
// Puts the compiled modules of dist/ together for the program that people start: dist/cli.js with its chunks and threads in
// dist/program/. A command then loads a handful of files instead of a hundred. The modules stay beside it for the tests,
// which load single ones. Nothing is renamed or squeezed, so that stack traces stay readable.

import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'rolldown';

const dist = fileURLToPath(new URL('../dist/', import.meta.url));

/** Where a process or a thread begins: the threads are found beside the chunk that starts them. */
const entries = {
  cli: `${dist}cli.js`,
  'keeper-thread': `${dist}daemon/keeper/keeper-thread.js`,
  worker: `${dist}daemon/workers/worker.js`,
  'network-thread': `${dist}host/http/network-thread.js`,
};

rmSync(`${dist}program`, { recursive: true, force: true });
await build({
  input: entries,
  platform: 'node',
  // these find what belongs to them from where they lie: native modules their binaries, yargs its texts
  external: [/^(koffi|fuse-native|yargs)(\/|$)/],
  output: {
    dir: dist,
    format: 'esm',
    entryFileNames: ({ name }) => (name === 'cli' ? 'cli.js' : 'program/[name].js'),
    chunkFileNames: 'program/[name].js',
  },
  logLevel: 'warn',
});
