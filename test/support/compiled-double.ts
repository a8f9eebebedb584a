// Test doubles of this folder as modules for a child process, which runs on the built modules of dist/.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import ts from 'typescript';

const DIST = new URL('../../dist/', import.meta.url).href;
const OPTIONS = { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true };

/** Compiles `NAME.ts`, which imports nothing but src/, into a folder. @returns the URL of the module */
export function compileDouble(name: string, folder: string): string {
  const source = readFileSync(new URL(`./${name}.ts`, import.meta.url), 'utf8');
  const { outputText } = ts.transpileModule(source, { compilerOptions: OPTIONS });
  const path = join(folder, `${name}.mjs`);
  writeFileSync(path, outputText.replaceAll(/'\.\.\/\.\.\/src\/(.*)\.ts'/g, `'${DIST}$1.js'`));
  return pathToFileURL(path).href;
}
