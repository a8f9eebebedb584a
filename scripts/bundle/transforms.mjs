// What the build changes in the text of modules and chunks. Invariant: every replacement that must happen happens, or the build
// fails: a text that is no longer there is not passed over.

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Node's own modules that some paths never need, and that take milliseconds to load in Node 20. */
const LAZY = [
  'child_process',
  'crypto',
  'net',
  'os',
  'timers/promises',
  'tty',
  'url',
  'util',
  'worker_threads',
  'zlib',
];

/** @throws Error if the text has not exactly one match */
export function replaceOnce(text, pattern, replacement) {
  const found = text.match(new RegExp(pattern, `${pattern.flags.replace('g', '')}g`)) ?? [];
  if (found.length !== 1) throw new Error(`${pattern} is ${found.length} times in: ${text.slice(0, 300)}`);
  return text.replace(pattern, replacement);
}

const LOAD_MAIN = /await import\(['"]\.\/cli\/main\.js['"]\)/;

/** The compiled cli.ts, which people start. It imports nothing: Node makes a module of each of its own that is imported. */
export function cliAsModule(cli) {
  const require = "process.getBuiltinModule('node:module').createRequire(import.meta.url)";
  return replaceOnce(cli, LOAD_MAIN, `${require}('./program/load.cjs').load('main.cjs')`);
}

/** The same as a script, which a mount process starts with: it does without Node's loader for modules. */
export function cliAsScript(cli) {
  const body = replaceOnce(
    replaceOnce(cli, LOAD_MAIN, "require('./load.cjs').load('main.cjs')"),
    /^export \{\};?$/m,
    '',
  );
  return `'use strict';\n(async () => {\n${replaceOnce(body, /^#!.*\n/, '')}})();\n`;
}

/** Whether a chunk is the engine of one format (engines.mjs): it is loaded at its first use. */
export function isEngineChunk(fileName) {
  return fileName.startsWith('format-');
}

/** A chunk that is loaded while it loads another one has no values yet. @throws Error if that can happen */
export function assertNoCircle(chunks) {
  const byName = new Map(chunks.map((chunk) => [chunk.fileName, chunk]));
  const visit = (name, path) => {
    if (path.includes(name)) throw new Error(`chunks load each other: ${[...path, name].join(' -> ')}`);
    const loaded = byName.get(name)?.imports.filter((next) => !isEngineChunk(next)) ?? [];
    for (const next of loaded) visit(next, [...path, name]);
  };
  for (const name of byName.keys()) visit(name, []);
}

/** As the loader takes it: the positions in stack traces stay those of the file. */
export function asFunction(chunk) {
  return `(function (exports, require, module, __filename, __dirname) {${chunk}\n})`;
}

/**
 * The files that are loaded with some, themselves included; not what is imported later, and not packages.
 * @param follows whether an import counts
 */
export function loadedWith(files, follows = (_from, _to) => true) {
  const loaded = new Set(files);
  for (const file of loaded) {
    for (const [, name] of readFileSync(file, 'utf8').matchAll(
      /^(?:import|export|\}) (?:.* )?from ['"](\.[^'"]+)['"];$/gm,
    )) {
      const imported = join(dirname(file), name);
      if (follows(file, imported)) loaded.add(imported);
    }
  }
  return loaded;
}

/** The file of a thread: it loads its chunk as the program loads its own. */
export function entryOf(chunk) {
  return `'use strict';\nrequire('./load.cjs').loadThread('${chunk}', process.argv[2]);\n`;
}

/** Threads and mount processes begin in files of their own; the version is known; yargs asks for the working directory, which may be gone, without need. */
export const inBundle = {
  name: 'in-bundle',
  transform(code, id) {
    // extended configuration files are a part of yargs that is not used
    if (id.endsWith('yargs/build/lib/utils/apply-extends.js')) {
      return replaceOnce(code, /import\.meta\.resolve\(config\.extends\)/, 'config.extends');
    }
    if (id.endsWith('yargs/lib/platform-shims/esm.mjs')) {
      return replaceOnce(code, /mainFilename \|\| process\.cwd\(\)/, "'/'");
    }
    if (id.endsWith('cli/version.js')) {
      const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
      return replaceOnce(code, /createRequire\(import\.meta\.url\)\('\S+package\.json'\)/, JSON.stringify({ version }));
    }
    if (id.endsWith('cli/start-mount.js')) {
      return replaceOnce(code, /process\.argv\[1\] \?\? ''/, "__dirname + '/cli.cjs'");
    }
    return code.replaceAll(/(['"])\.\/((?:keeper|network|inspector)-thread|worker)\.js\1/g, "'./$2-entry.cjs'");
  },
};

const WIDTH = 'export default function stringWidth(text) { return [...text].length; }';

/** The width of a text in columns. The package compiles tables of emoji when it is loaded, for 50 ms; our texts are plain ones. */
export const asciiWidth = {
  name: 'ascii-width',
  resolveId: (id) => (id === 'string-width' ? '\0ascii-width' : null),
  load: (id) => (id === '\0ascii-width' ? WIDTH : null),
};

/**
 * Uses the modules of Node as they are. The bundler copies each into an object of getters, for the sake of default imports; V8
 * calls such a getter through its runtime, which adds a quarter of a microsecond to every system call.
 */
export function plainBuiltins(text) {
  let changed = text;
  for (const [, name] of text.matchAll(/^let (\w+) = require\("node:[\w/]+"\);\n/gm)) {
    if (text.includes(`${name}.default`)) continue;
    changed = changed.replace(new RegExp(`^${name} = \\w+\\.__toESM\\(${name}, 1\\);\\n`, 'm'), '');
  }
  return changed;
}

/** Loads engines, and modules of Node that not every path needs, at the first use: `node_net.connect` becomes `node_net().connect`. */
export function lazyRequires(text, fileName) {
  let changed = text.replaceAll(/\bimport\("(node:\w+)"\)/g, 'Promise.resolve(require("$1"))');
  for (const [statement, name, module, place, id] of text.matchAll(
    /^(?:let|const) (\w+) = (require\("(node:|\.\/)([\w./-]+)"\));\n/gm,
  )) {
    if (place === './' ? !isEngineChunk(id) : !LAZY.includes(id)) continue;
    changed = changed.replace(statement, '');
    // a default import
    const whole = new RegExp(`^${name} = (\\w+\\.__toESM\\()${name}(, 1\\);)\\n`, 'm').exec(changed);
    changed = changed
      .replace(whole?.[0] ?? statement, '')
      .replaceAll(new RegExp(`\\b${name}\\.(?=\\w)`, 'g'), `${name}().`);
    if (new RegExp(`(?<!["'\`])\\b${name}\\b(?!\\(\\)\\.)`).test(changed))
      throw new Error(`${fileName} uses ${name} as a whole`);
    changed = changed.replaceAll(new RegExp(`\\bnew ${name}\\(\\)\\.(\\w+)`, 'g'), `new (${name}().$1)`);
    const loaded = whole === null ? module : `${whole[1]}${module}${whole[2].slice(0, -1)}`;
    changed = `let ${name}_loaded;\nconst ${name} = () => (${name}_loaded ??= ${loaded});\n${changed}`;
  }
  return changed;
}

/** The compiled index.ts, which importers of the package load: the library is a chunk like the others. @param names its exports */
export function libraryAsModule(names) {
  const load = "createRequire(import.meta.url)('./program/load.cjs').load('library.cjs')";
  return `import { createRequire } from 'node:module';\nexport const { ${names.join(', ')} } = ${load};\n`;
}

/** The licences of packages that are a part of the program, as each of them asks. @param modules paths of what was put together */
export function licencesOf(modules) {
  const folders = modules.flatMap(
    (id) => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(id.replace(/^\0/, ''))?.[0] ?? [],
  );
  return [...new Set(folders)]
    .sort()
    .map((folder) => {
      const { name, version } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'));
      const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
      if (file === undefined) throw new Error(`${folder} has no licence file`);
      return `${name} ${version}\n\n${readFileSync(`${folder}/${file}`, 'utf8').trim()}\n`;
    })
    .join(`\n${'-'.repeat(80)}\n\n`);
}
