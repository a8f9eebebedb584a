#!/usr/bin/env node
// Stores what V8 has compiled of the program beside its chunks, for the Node that runs this: `code-cache.mjs dist/program`.
// It runs the program as users do, in one process, so that the code of the functions that they need is among it.
// The build does that for its own Node; whoever installs the program for another one runs this again.

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isEngineChunk } from './transforms.mjs';

const SELF = fileURLToPath(import.meta.url);
const EXERCISE = '--exercise';

/** In a process of its own, whose output nobody sees. @param program the folder of the chunks */
export function makeCodeCache(program) {
  const { status, stderr } = spawnSync(process.execPath, [SELF, program, EXERCISE], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`the code cache could not be made: ${stderr}`);
}

if (process.argv[1] === SELF && process.argv[3] !== EXERCISE) makeCodeCache(process.argv[2]);
else if (process.argv[1] === SELF) {
  const { load, chunks, CODE_FOLDER } = createRequire(import.meta.url)(join(resolve(process.argv[2]), 'load.cjs'));
  rmSync(CODE_FOLDER, { recursive: true, force: true });
  const { formats } = load('library.cjs');
  assertNoEngine([...chunks.keys()]);
  await exercise(load, formats);
  mkdirSync(CODE_FOLDER);
  for (const [name, { script }] of chunks) {
    writeFileSync(join(CODE_FOLDER, name), script.createCachedData());
    chmodSync(join(CODE_FOLDER, name), 0o644);
  }
  process.exit(0);
}

/** @param loaded the chunks that are loaded with the list of formats */
function assertNoEngine(loaded) {
  const engine = loaded.find(isEngineChunk);
  if (engine !== undefined)
    throw new Error(`${engine} is loaded with the list of formats: its plug uses it before it is called`);
}

/** Every command on small images of every format, and what a mount does with its disk. */
async function exercise(load, formats) {
  const { main } = load('main.cjs');
  const folder = mkdtempSync(join(tmpdir(), 'imgfuse-code-'));
  try {
    process.env['IMGFUSE_RUNTIME_DIR'] = folder;
    for (const { name, canCreate } of formats) {
      load(`format-${name}.cjs`);
      if (!canCreate) continue;
      const image = join(folder, `disk.${name}`);
      for (const line of [
        ['create', '-f', name, image, '16M'],
        ...['info', 'check', 'map'].map((command) => [command, image]),
        ['info', '--output=json', image],
        ['resize', image, '+1M'],
      ]) {
        await main(line, 'imgfuse');
      }
    }
    for (const line of [['--version'], ['--help'], ['help', 'mount'], ['status'], ['completion', 'bash']]) {
      await main(line, 'imgfuse');
    }
    await main(['unmount', join(folder, 'nothing')], 'imgfuse');
    await main(['mount', join(folder, 'nothing.qcow2'), folder], 'imgfuse');
    for (const name of ['mounting.cjs', 'worker.cjs', 'keeper-thread.cjs']) load(name);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
