#!/usr/bin/env node
// Puts the compiled modules of dist/ together for the program that people start: dist/cli.js with its chunks and threads in
// dist/program/. A command then loads a handful of files instead of a hundred, with the code that V8 has compiled when the
// program was built (bundle/code-cache.mjs). dist/index.js, the library, loads the same chunks. The modules stay beside it for
// the tests, which load single ones. Nothing is renamed or squeezed, so that stack traces stay readable.

import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'rolldown';
import { makeCodeCache } from './bundle/code-cache.mjs';
import { callsEngine, engineGroups, leadsToEngine } from './bundle/engines.mjs';
import {
  asciiWidth,
  asFunction,
  assertNoCircle,
  cliAsModule,
  cliAsScript,
  entryOf,
  inBundle,
  lazyRequires,
  libraryAsModule,
  licencesOf,
  loadedWith,
  plainBuiltins,
  replaceOnce,
} from './bundle/transforms.mjs';

const dist = fileURLToPath(new URL('../dist/', import.meta.url));
const program = `${dist}program/`;

/** Where a process or a thread begins. */
const entries = {
  main: `${dist}cli/main.js`,
  'keeper-thread': `${dist}daemon/keeper/keeper-thread.js`,
  worker: `${dist}daemon/workers/worker.js`,
  'network-thread': `${dist}host/http/network-thread.js`,
  'inspector-thread': `${dist}daemon/inspection/inspector-thread.js`,
  library: `${dist}index.js`,
};
/** Those that are no threads. */
const WITHOUT_THREAD = ['main', 'library'];

const closure = (...roots) => loadedWith(roots.map((root) => `${dist}${root}`));
const commands = (...names) => names.map((name) => `cli/commands/${name}.js`);
const onImages = commands('info', 'check', 'map', 'create', 'resize');
const threads = ['daemon/keeper/keeper-thread.js', 'daemon/workers/worker.js', 'daemon/inspection/inspector-thread.js'];
const engines = closure(...onImages, ...threads);
const withoutEngines = loadedWith(
  [...onImages, ...threads].map((root) => `${dist}${root}`),
  (from, to) => !leadsToEngine(from, to),
);
const asking = closure(...commands('status', 'unmount', 'remount', 'umount-helper'));
const starting = closure('cli/start-mount.js');
const mounting = closure('daemon/mount-process.js', 'daemon/supervisor.js');
const network = closure('host/http/network-thread.js');
const both = (ones, others) => new Set(ones.filter((id) => others.some((other) => other.has(id))));
const common = both([...asking, ...starting, ...network], [starting, mounting, engines]);
const isFuse = (id) => id.startsWith(`${dist}fuse/`);
const aboveFuse = new Set([...common].filter((id) => [...loadedWith([id])].some(isFuse)));
/** What a chunk has; a module is in the first one that wants it. A path loads few chunks, and little that it does not need. */
const groups = {
  base: closure('cli/main.js'),
  launching: closure('daemon/first-threads.js'),
  fuse: new Set([...mounting].filter(isFuse)),
  mounts: aboveFuse,
  shared: common,
  served: both([...mounting, ...closure('daemon/workers/request-gate.js')], [engines]),
  ...{ starting, asking, mounting },
  ...engineGroups(dist, withoutEngines),
  disk: closure('disk/index.js'),
  commands: closure(...onImages),
};

rmSync(program, { recursive: true, force: true });
mkdirSync(program);
const { output } = await build({
  input: entries,
  platform: 'node',
  preserveEntrySignatures: 'allow-extension',
  // these find what belongs to them from where they lie
  external: [/^(koffi|fuse-native)(\/|$)/],
  plugins: [inBundle, callsEngine, asciiWidth],
  output: {
    dir: program,
    // the loader can give V8 its compiled code for a script, and Node cannot for a module
    format: 'cjs',
    // one byte for a character, in memory as well
    charset: 'ascii',
    comments: { jsdoc: false },
    entryFileNames: '[name].cjs',
    chunkFileNames: '[name].cjs',
    codeSplitting: {
      includeDependenciesRecursively: false,
      groups: Object.entries(groups).map(([name, modules], index) => ({
        name,
        test: (id) => modules.has(id) && !Object.values(entries).includes(id),
        priority: 100 - index,
      })),
    },
  },
  logLevel: 'warn',
});
assertNoCircle(output);
const chunks = output.map(({ fileName }) => {
  const text = readFileSync(`${program}${fileName}`, 'utf8');
  return [fileName, asFunction(lazyRequires(plainBuiltins(text), fileName))];
});
// a process that loads a chunk late must not get one of another build
const buildId = createHash('sha256').update(JSON.stringify(chunks)).digest('hex').slice(0, 32);
for (const [fileName, text] of chunks) writeFileSync(`${program}${fileName}`, `${text} // ${buildId}`);
const loader = readFileSync(new URL('bundle/load.cjs', import.meta.url), 'utf8');
writeFileSync(`${program}load.cjs`, replaceOnce(loader, /'BUILD'/, `'${buildId}'`));
for (const name of Object.keys(entries).filter((each) => !WITHOUT_THREAD.includes(each))) {
  writeFileSync(`${program}${name}-entry.cjs`, entryOf(`${basename(name)}.cjs`));
}
// tsc has just written it anew
const cli = readFileSync(`${dist}cli.js`, 'utf8');
writeFileSync(`${dist}cli.js`, cliAsModule(cli));
writeFileSync(`${program}cli.cjs`, cliAsScript(cli));
writeFileSync(`${dist}index.js`, libraryAsModule(output.find(({ name }) => name === 'library').exports));
writeFileSync(`${program}LICENSES.txt`, licencesOf(output.flatMap(({ moduleIds }) => moduleIds)));
makeCodeCache(program);
