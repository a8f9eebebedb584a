#!/usr/bin/env node
// What npm runs before it packs or installs this package from its sources: builds dist/, which is in no repository. Without
// the compiler it says what to do, because npm itself installs a package without its program and says nothing.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

const folder = new URL('..', import.meta.url);
const has = (path) => existsSync(new URL(path, folder));

/** npm ci --omit=dev: the program comes from elsewhere. */
const isForProduction = process.env['npm_command'] === 'ci' && process.env['npm_config_omit']?.includes('dev') === true;

if (has('node_modules/typescript/bin/tsc')) {
  const { status } = spawnSync('npm', ['run', '--silent', 'build'], { cwd: folder, stdio: 'inherit' });
  process.exit(status ?? 1);
}
if (!has('dist/cli.js') && !isForProduction) {
  console.error('imgfuse is not built: run "npm ci" in its folder first, then this again');
  process.exit(1);
}
