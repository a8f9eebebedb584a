// What the build makes of the modules of Node: a request calls them three times, so there is nothing between.

import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const { plainBuiltins } = (await import(new URL('../../../scripts/bundle/transforms.mjs', import.meta.url).href)) as {
  plainBuiltins(text: string): string;
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
