// What the build makes of the modules of Node: a request calls them three times, so there is nothing between. And of the engines of
// the formats: one that nobody uses takes no memory.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { formats } from '../../../src/disk/registry.ts';

const scripts = new URL('../../../scripts/bundle/', import.meta.url);
const { lazyRequires, plainBuiltins } = (await import(new URL('transforms.mjs', scripts).href)) as {
  lazyRequires(text: string, fileName: string): string;
  plainBuiltins(text: string): string;
};
const { callsEngine } = (await import(new URL('engines.mjs', scripts).href)) as {
  callsEngine: { transform(code: string, id: string): string };
};

test('a module of Node is used as it is, unless its default is asked for', () => {
  const chunk = (use: string) =>
    `let node_fs = require("node:fs");\nnode_fs = require_runtime.__toESM(node_fs, 1);\nnode_fs.${use};\n`;
  expect(plainBuiltins(chunk('readSync()'))).toBe('let node_fs = require("node:fs");\nnode_fs.readSync();\n');
  expect(plainBuiltins(chunk('default()'))).toBe(chunk('default()'));
  const other = 'let undici = require("undici");\nundici = require_runtime.__toESM(undici, 1);\n';
  expect(plainBuiltins(other)).toBe(other);
});

test('no chunk of the program copies node:fs into an object of getters', () => {
  const program = new URL('../../../dist/program/', import.meta.url);
  const chunks = readdirSync(program).filter((name) => name.endsWith('.cjs'));
  const texts = chunks.map((name) => readFileSync(new URL(name, program), 'utf8'));
  expect(texts.some((text) => text.includes('node_fs = require("node:fs")'))).toBe(true);
  for (const text of texts) expect(text).not.toMatch(/__toESM\(node_fs/);
});

test('a plug calls its engine, and uses what is loaded with it as it is', () => {
  const plug = [
    "import { openQed, checkQed } from './open.js';",
    "import { HELP } from './create-help.js';",
    'export const qed = {',
    '    createHelp: HELP,',
    '    open: openQed,',
    '    check: checkQed,',
    '};',
  ];
  expect(callsEngine.transform(plug.join('\n'), '/dist/format/qed/index.js').split('\n').slice(3, 6)).toEqual([
    '    createHelp: HELP,',
    '    open: (...words) => openQed(...words),',
    '    check: (...words) => checkQed(...words),',
  ]);
  expect(callsEngine.transform(plug.join('\n'), '/dist/format/qed/image.js')).toBe(plug.join('\n'));
});

test('the chunk of an engine is loaded at its first use, and other chunks at once', () => {
  const uses = 'require_format_qed.open(new require_format_qed.Image(), require_base.a);\n';
  const others = 'const require_base = require("./base.cjs");\n';
  expect(lazyRequires(`const require_format_qed = require("./format-qed.cjs");\n${others}${uses}`, 'disk.cjs')).toBe(
    'let require_format_qed_loaded;\n' +
      'const require_format_qed = () => (require_format_qed_loaded ??= require("./format-qed.cjs"));\n' +
      `${others}require_format_qed().open(new (require_format_qed().Image)(), require_base.a);\n`,
  );
});

/** Opens an image, which is probed, and prints which engines were loaded before and after. */
const OPENS = `
  const [program, path, format] = process.argv.slice(1);
  const { load, chunks } = require(program + 'load.cjs');
  const { createDisk, formats, openDisk } = load('library.cjs');
  const engines = () => [...chunks.keys()].filter((name) => name.startsWith('format-'));
  const listed = engines();
  createDisk(path, format, { size: 2 ** 24 });
  openDisk(path, { readOnly: false }).close();
  console.log(JSON.stringify({ listed, opened: engines() }));
`;

test.each(
  formats.flatMap(({ name, create }) => (create === undefined ? [] : [name])),
)('a program that opens a %s image has loaded no engine but that of its format', (name) => {
  const folder = mkdtempSync(join(tmpdir(), 'imgfuse-engines-'));
  try {
    const program = fileURLToPath(new URL('../../../dist/program/', import.meta.url));
    const { stdout } = spawnSync(process.execPath, ['-e', OPENS, program, join(folder, 'disk'), name], {
      encoding: 'utf8',
    });
    expect(JSON.parse(stdout)).toEqual({ listed: [], opened: [`format-${name}.cjs`] });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
