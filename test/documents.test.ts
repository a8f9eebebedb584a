// Every path, link and npm command in the documents exists. Each kind is also shown a made-up document that breaks it.

import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { type Document, missingIn, type Repository } from './support/documents.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

const files: readonly string[] = [
  ...readdirSync(ROOT, { withFileTypes: true }).filter((entry) => entry.isFile()),
  ...['src', 'test', 'scripts', 'native-notes']
    .flatMap((folder) => readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile()),
].map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));

const documents: readonly Document[] = files
  .filter((path) => path.endsWith('.md') || path.startsWith('scripts/man/'))
  .map((path) => ({ path, text: readFileSync(join(ROOT, path), 'utf8') }));

const repository: Repository = {
  files,
  documents,
  commands: Object.keys((JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: object }).scripts),
};

describe('the documents', () => {
  test('are the README, the notes and the manual page', () => {
    const paths = documents.map(({ path }) => path);
    expect(paths).toContain('README.md');
    expect(paths).toContain('native-notes/durability/qed.md');
    expect(paths).toContain('scripts/man/imgfuse.1');
  });

  test.each(
    documents.map((document) => [document.path, document] as const),
  )('%s names only what is there', (_, document) => {
    expect(missingIn(document, repository)).toEqual([]);
  });
});

describe('a made-up document', () => {
  const small: Repository = {
    files: [
      'README.md',
      'notes/a.md',
      'src/format/qed/index.ts',
      'src/host/x.ts',
      'test/unit/host/x.test.ts',
      'scripts/x.sh',
    ],
    documents: [{ path: 'notes/a.md', text: '# A title: two words\n' }],
    commands: ['bench'],
  };
  const missing = (text: string, path = 'README.md'): string[] => missingIn({ path, text }, small);

  test.each([
    ['[a](notes/b.md)', 'README.md links to notes/b.md'],
    ['[a](notes/a.md#another-title)', 'README.md links to notes/a.md#another-title'],
    ['[a](#no-title)', 'README.md links to #no-title'],
    ['| `host/y.ts` | a |', 'README.md names host/y.ts'],
    ['x.ts and y.ts', 'README.md names y.ts'],
    ['src/x.ts', 'README.md names src/x.ts'],
    ['run ./scripts/y.sh.', 'README.md names scripts/y.sh'],
    ['FORMAT/table.ts', 'README.md names FORMAT/table.ts'],
    ['format/*/header.ts', 'README.md names format/*/header.ts'],
    ['a folder that went: commands/x.ts', 'README.md names commands/x.ts'],
    ['unit/host/y', 'README.md names unit/host/y'],
    ['`format/vdi/`', 'README.md names format/vdi/'],
    ['dist/main.js', 'README.md names src/main.ts'],
    ['npm run fuzz', 'README.md names npm run fuzz'],
  ])('is caught with %s', (text, sentence) => {
    expect(missing(text)).toEqual([sentence]);
  });

  test('of the manual is read without its font changes', () => {
    expect(missing('\\fIsrc/y\\-z.ts\\fR', 'scripts/man/a.1')).toEqual(['scripts/man/a.1 names src/y-z.ts']);
  });

  test('that is right passes', () => {
    const good = `[a](notes/a.md) [b](notes/a.md#a-title-two-words) [c](notes/) [d](https://x/y.ts) \`host/x.ts\`, qed/index.ts
      (x.ts, scripts/x.sh), FORMAT/index.ts; format/<a>/index.ts: unit/host/x, test/unit/host/. npm run bench
      /etc/fuse.conf ~/x.sh https://host/y.ts`;
    expect(missing(good)).toEqual([]);
    expect(missing('[a](../README.md)', 'notes/a.md')).toEqual([]);
  });
});
