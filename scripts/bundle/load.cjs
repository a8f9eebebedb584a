'use strict';
// Loads the chunks of the program, with the code that V8 compiled when the program was built or installed (code-cache.mjs).
// V8 takes that code only if version, flags and length of the source agree, and compiles the source otherwise. The code lies
// beside the chunks, so whoever can change it can change the program itself. Nothing is ever written here.

const { fstatSync, openSync, closeSync, readFileSync } = require('node:fs');
const { Script, constants } = require('node:vm');

/** The code of a chunk counts only if the chunk has not been edited since; copies of both may differ by some seconds. */
const COPY_MS = 10_000;
const CODE_FOLDER = `${__dirname}/code-${process.version}-${process.arch}/`;
const chunks = new Map();

function load(name) {
  const known = chunks.get(name);
  if (known !== undefined) return known.module.exports;
  const filename = `${__dirname}/${name}`;
  const source = readFile(filename);
  const code = readCode(name, source.changedMs);
  const script = new Script(
    `(function (exports, require, module, __filename, __dirname) {${source.bytes.latin1Slice()}\n})`,
    {
      filename,
      importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
      ...(code === undefined ? {} : { cachedData: code }),
    },
  );
  const module = { exports: {} };
  chunks.set(name, { module, script });
  script.runInThisContext()(module.exports, requireFromChunk, module, filename, __dirname);
  return module.exports;
}

function requireFromChunk(id) {
  return id.startsWith('./') && chunkName.test(id) ? load(id.slice(2)) : (process.getBuiltinModule(id) ?? require(id));
}
const chunkName = /^\.\/[\w-]+\.cjs$/;

function readFile(path) {
  const file = openSync(path, 'r');
  try {
    return { bytes: readFileSync(file), changedMs: fstatSync(file).mtimeMs };
  } finally {
    closeSync(file);
  }
}

/** @returns undefined if there is none for this version of Node */
function readCode(name, changedMs) {
  try {
    const code = readFile(`${CODE_FOLDER}${name}`);
    return code.changedMs + COPY_MS < changedMs ? undefined : code.bytes;
  } catch {
    return undefined;
  }
}

module.exports = { load, chunks, CODE_FOLDER };
