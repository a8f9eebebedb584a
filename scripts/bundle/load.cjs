'use strict';
// Loads the chunks of the program, with the code that V8 compiled when the program was built or installed (code-cache.mjs).
// V8 takes that code only if version, flags and length of the source agree, and compiles the source otherwise. The code lies
// beside the chunks, so whoever can change it can change the program itself. Nothing is ever written here.

const { fstatSync, openSync, closeSync, readSync } = require('node:fs');
const { Script, constants } = require('node:vm');

/** The code of a chunk counts only if the chunk has not been edited since; copies of both may differ by some seconds. */
const COPY_MS = 10_000;
const CODE_FOLDER = `${__dirname}/code-${process.version}-${process.arch}/`;
const CHUNK = /^\.\/([\w-]+\.cjs)$/;
/** Of the files that belong together: each chunk ends with it. The build writes it here. */
const BUILD = 'BUILD';
const chunks = new Map();
// for threads, which may start when the files are those of another build
globalThis[Symbol.for('imgfuse.build')] = BUILD;
/** One for all files: what a thread allocates while it starts stays in its memory, as far as it was used. */
let scratch = Buffer.allocUnsafeSlow(1024 * 1024);

/** A chunk is a function `(exports, require, module, __filename, __dirname)` in ASCII. @returns its exports */
function load(name) {
  const known = chunks.get(name);
  if (known !== undefined) return known.module.exports;
  const filename = `${__dirname}/${name}`;
  const file = readFile(filename);
  const source = file.bytes.latin1Slice();
  if (!source.endsWith(BUILD)) throw replaced(name);
  const cachedData = readCode(name, file.changedMs);
  const importModuleDynamically = constants.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  const script = new Script(source, { filename, cachedData, importModuleDynamically });
  const module = { exports: {} };
  chunks.set(name, { module, script });
  script.runInThisContext()(module.exports, requireFromChunk, module, filename, __dirname);
  return module.exports;
}

/** The chunk of a thread. @param build of the process that started it */
function loadThread(name, build) {
  if (build !== BUILD) throw replaced(name);
  return load(name);
}

function replaced(name) {
  return new Error(
    `${__dirname}/${name} belongs to another build of the program than this process, which goes on without it`,
  );
}

function requireFromChunk(id) {
  const name = CHUNK.exec(id)?.[1];
  return name === undefined ? (process.getBuiltinModule(id) ?? require(id)) : load(name);
}

/** The bytes count until the next call. */
function readFile(path) {
  const file = openSync(path, 'r');
  try {
    const { size, mtimeMs: changedMs } = fstatSync(file);
    if (size > scratch.length) scratch = Buffer.allocUnsafeSlow(size);
    for (let length = 0; length < size; ) {
      const read = readSync(file, scratch, length, size - length);
      if (read === 0) throw new Error(`${path} has become shorter`);
      length += read;
    }
    return { bytes: scratch.subarray(0, size), changedMs };
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

module.exports = { load, loadThread, chunks, CODE_FOLDER };
