// What the sources of status, unmount and remount import. Loading the engines takes several times as long as the answer of a mount
// process; loaded-modules.test.ts looks at the built program.

import { readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { importsOf } from '../../support/architecture.ts';

const SOURCES = fileURLToPath(new URL('../../../src', import.meta.url));

/** Paths below src/, and packages, that are loaded with a module. */
function loadedWith(...modules: readonly string[]): Set<string> {
  const loaded = new Set<string>(modules);
  for (const module of loaded) {
    if (!module.endsWith('.ts')) continue;
    for (const { specifier, typeOnly } of importsOf({
      path: module,
      text: readFileSync(join(SOURCES, module), 'utf8'),
    })) {
      if (typeOnly || specifier.startsWith('node:')) continue;
      const path = join(SOURCES, dirname(module), specifier);
      loaded.add(specifier.startsWith('.') ? relative(SOURCES, path) : specifier);
    }
  }
  return loaded;
}

test.each([
  'status',
  'unmount',
  'remount',
])('%s loads no engine, no package, and not the list of all commands', (command) => {
  const loaded = [...loadedWith(`cli/commands/${command}.ts`)];
  expect(
    loaded.filter((module) =>
      /^(format|disk|filesystem)\/|^host\/(http\/|posix-file\.ts)|^cli\/all-commands\.ts$/.test(module),
    ),
  ).toEqual([]);
  // koffi is loaded by the first system call that needs it
  expect(loaded.filter((module) => !module.endsWith('.ts'))).toEqual([]);
});
