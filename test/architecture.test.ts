// The import table (native-notes/architecture.md) and the shape of source files. Each rule is also shown a made-up module that breaks it.

import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import {
  filesWithExceptions,
  folderOf,
  importsOf,
  MAX_FILES,
  MAX_LINES,
  type SourceModule,
  treeViolationsOf,
  violationsOf,
} from './support/architecture.ts';

const SOURCE = fileURLToPath(new URL('../src', import.meta.url));

const modules: readonly SourceModule[] = readdirSync(SOURCE, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
  .map((entry) => join(entry.parentPath, entry.name))
  .map((path) => ({ path: relative(SOURCE, path), text: readFileSync(path, 'utf8') }));

/** A module that breaks nothing, with `body` in it. */
function made(path: string, body: string): SourceModule {
  return { path, text: `// What it holds.\n\n${body}\n` };
}

describe('the source tree', () => {
  // every file is parsed, which takes long beside other work
  test('follows the import table and the rules of shape in every file', { timeout: 60_000 }, () => {
    expect(modules.length).toBeGreaterThan(50);
    expect(modules.flatMap(violationsOf)).toEqual([]);
  });

  test('has no circle, no arrow upwards and no folder with too many files', () => {
    expect(treeViolationsOf(modules)).toEqual([]);
  });

  test('has only folders that the table knows', () => {
    const folders = new Set(modules.map(({ path }) => folderOf(path)));
    const known =
      /^(bytes|errors|native|host|concurrency|codec|format|format\/[a-z0-9]+|disk|guest\/partitions|filesystem|fuse|mounts|guest|daemon|cli|index)$/;
    expect([...folders].filter((folder) => !known.test(folder))).toEqual([]);
  });

  test('has every file that has an exception, so that the list does not outlive its reasons', () => {
    const present = modules.map(({ path }) => path);
    expect(filesWithExceptions().filter((path) => !present.includes(path))).toEqual([]);
  });

  test('imports relative modules with their extension', () => {
    const bare = modules.flatMap((module) =>
      importsOf(module)
        .filter(({ specifier }) => specifier.startsWith('.') && !specifier.endsWith('.ts'))
        .map(({ specifier }) => `${module.path}: ${specifier}`),
    );
    expect(bare).toEqual([]);
  });
});

describe('a rule bites where a module breaks it', () => {
  const bad: readonly (readonly [rule: string, module: SourceModule, sentence: RegExp])[] = [
    [
      'a format imports another',
      made('format/qcow2/image.ts', `import { qed } from '../qed/index.ts';`),
      /may not import format\/qed/,
    ],
    [
      'a type is imported upwards',
      made('bytes/x.ts', `import type { A } from '../errors/index.ts';`),
      /bytes may not import errors/,
    ],
    [
      'a shared file imports a format',
      made('format/x.ts', `export { a } from './qed/index.ts';`),
      /format may not import format\/qed/,
    ],
    ['a format reaches for disk', made('format/qed/x.ts', `import '../../disk/index.ts';`), /may not import disk/],
    ['fuse knows disks', made('fuse/x.ts', `import type { V } from '../disk/index.ts';`), /fuse may not import disk/],
    [
      'a command makes system calls',
      made('cli/commands/x.ts', `import { mount } from '../../native/index.ts';`),
      /cli may not import native/,
    ],
    [
      'a command reaches for the kernel protocol',
      made('cli/commands/x.ts', `import { mountKernel } from '../../fuse/index.ts';`),
      /cli may not import fuse/,
    ],
    [
      'what serves a mount prints',
      made('daemon/keeper/x.ts', `import { print } from '../../cli/output.ts';`),
      /daemon may not import cli/,
    ],
    [
      'a look at the mounts asks a mount process',
      made('mounts/x.ts', `import type { Log } from '../daemon/log.ts';`),
      /mounts may not import daemon/,
    ],
    [
      'a folder is entered past its doors',
      made('daemon/x.ts', `import { Device } from '../fuse/device.ts';`),
      /fuse is entered by index\.ts, mount-table\.ts, filesystem\.ts/,
    ],
    [
      'a format is entered past its plug',
      made('disk/registry.ts', `import { x } from '../format/qed/image.ts';`),
      /format\/qed is entered by index\.ts/,
    ],
    [
      'disk names a format outside the registry',
      made('disk/open.ts', `import { qed } from '../format/qed/index.ts';`),
      /may not import format\/qed/,
    ],
    [
      'filesystem takes values from fuse',
      made('filesystem/x.ts', `import { A } from '../fuse/filesystem.ts';`),
      /may not import fuse/,
    ],
    [
      'filesystem takes types from other files of fuse',
      made('filesystem/x.ts', `import type { A } from '../fuse/server.ts';`),
      /may not import fuse/,
    ],
    [
      'the tree of a mount starts programs',
      made('filesystem/x.ts', `import { a } from '../guest/blkid.ts';`),
      /filesystem may not import guest$/,
    ],
    [
      'the parsers of partitions know what a disk is made of',
      made('guest/partitions/x.ts', `import type { V } from '../../disk/index.ts';`),
      /guest\/partitions may not import disk/,
    ],
    [
      'an import hides in a function',
      made('host/x.ts', `async function f() { await import('../disk/index.ts'); }`),
      /host may not import disk/,
    ],
    [
      'an import hides in a type',
      made('host/x.ts', `type A = import('../disk/index.ts').A;`),
      /host may not import disk/,
    ],
    [
      'an import hides in a re-export',
      made('native/x.ts', `export * from '../host/index.ts';`),
      /native may not import host/,
    ],
    [
      'a format is asked for by its name',
      made('disk/x.ts', `const a = format.name === 'qcow2';`),
      /names a format: "qcow2"/,
    ],
    [
      'the raw format is asked for by its name',
      made('cli/x.ts', `const a = format === 'raw';`),
      /names a format: "raw"/,
    ],
    ['a sentence names a format', made('disk/x.ts', 'const a = "a QED image";'), /names a format: "a QED image"/],
    ['advice names a format', made('cli/x.ts', `const a = 'add -F raw if it is one';`), /names a format: "add -F raw/],
    ['node:fs in a format', made('format/raw/x.ts', `import * as fs from 'node:fs';`), /node:fs/],
    ['fs without its prefix', made('disk/x.ts', `import { readFileSync } from 'fs';`), /imports fs;/],
    [
      'node:fs/promises in a command',
      made('cli/x.ts', `const fs = await import('node:fs/promises');`),
      /node:fs\/promises/,
    ],
    ['the process ends outside cli.ts', made('cli/x.ts', 'process.exit(1);'), /only cli\.ts does/],
    ['no opening comment', { path: 'bytes/x.ts', text: 'export const a = 1;\n' }, /opens with 0 comment lines/],
    ['a long opening comment', { path: 'bytes/x.ts', text: `${'// a\n'.repeat(9)}\n` }, /opens with 9 comment lines/],
    ['a long file', made('bytes/x.ts', 'const a = 1;\n'.repeat(MAX_LINES)), /has 40\d lines/],
  ];

  test.each(bad)('%s', (_rule, module, sentence) => {
    const sentences = violationsOf(module);
    expect(sentences).toHaveLength(1);
    expect(sentences[0]).toMatch(sentence);
  });

  test('and what is allowed passes', () => {
    const good = [
      made('format/qed/x.ts', `import { a } from '../image-format.ts';\nimport { b } from './header.ts';`),
      made('filesystem/x.ts', `import { type A, type B } from '../fuse/filesystem.ts';`),
      made('disk/registry.ts', `import { qed } from '../format/qed/index.ts';`),
      made('host/x.ts', `import * as fs from 'node:fs';`),
      made('cli/x.ts', `const a = ['disk.qed', 'qemu-img info a.qcow2', 'a raw file', '/mnt/img/disk.raw'];`),
      made('disk/registry.ts', `const a = formatByName('qcow2');`),
      made('cli.ts', `import { main } from './cli/main.ts';\nprocess.exit(await main());`),
    ];
    expect(good.flatMap(violationsOf)).toEqual([]);
  });

  test.each([
    [
      'two files import each other',
      [made('format/a.ts', `import { b } from './b.ts';`), made('format/b.ts', `import type { A } from './a.ts';`)],
      'format/a.ts -> format/b.ts -> format/a.ts is a circle',
    ],
    [
      'a circle closes through a dynamic import, far from where it began',
      [
        made('cli/a.ts', `import './b.ts';`),
        made('cli/b.ts', `import './commands/c.ts';`),
        made('cli/commands/c.ts', `await import('../b.ts');`),
      ],
      'cli/b.ts -> cli/commands/c.ts -> cli/b.ts is a circle',
    ],
    [
      'an arrow leads upwards, whatever the table of single files allows',
      [made('fuse/mount-table.ts', `import { log } from '../daemon/log.ts';`)],
      'fuse/mount-table.ts imports daemon/log.ts, which is not below it',
    ],
    [
      'an arrow leads to a folder beside',
      [made('format/qed/x.ts', `import { x } from '../qcow2/index.ts';`)],
      'format/qed/x.ts imports format/qcow2/index.ts, which is not below it',
    ],
    [
      'a folder has a file too many',
      Array.from({ length: MAX_FILES + 1 }, (_, index) => made(`host/http/${index}.ts`, '')),
      `host/http has ${MAX_FILES + 1} files, more than ${MAX_FILES}`,
    ],
  ])('%s', (_rule, tree, sentence) => {
    expect(treeViolationsOf(tree)).toEqual([sentence]);
  });

  test('and a tree that branches and meets again passes', () => {
    const tree = [
      made('cli.ts', `await import('./cli/main.ts');`),
      made('cli/main.ts', `import './a.ts';\nimport './commands/b.ts';`),
      made('cli/commands/b.ts', `import '../a.ts';`),
      made('cli/a.ts', `import type { D } from '../daemon/d.ts';`),
      made('daemon/d.ts', `import { listMounts } from '../fuse/mount-table.ts';`),
      ...Array.from({ length: MAX_FILES }, (_, index) => made(`host/${index}.ts`, '')),
    ];
    expect(treeViolationsOf(tree)).toEqual([]);
  });
});
