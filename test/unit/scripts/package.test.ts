// What npm makes of this package: built from a clone or refused with what to do, and complete once it is packed.

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const TIMEOUT_MS = 180_000;

let folder: string;
let clone: string;

beforeAll(() => {
  folder = makeTemporaryDirectory();
  clone = join(folder, 'clone');
  for (const name of ['package.json', 'tsconfig.json', 'src', 'scripts', 'README.md', 'LICENSE', 'native-notes']) {
    cpSync(join(ROOT, name), join(clone, name), { recursive: true });
  }
});
afterAll(() => removeTemporaryDirectory(folder));

interface Result {
  readonly code: number | null;
  readonly output: string;
}

function run(command: string, parameters: readonly string[], environment: NodeJS.ProcessEnv = {}): Result {
  // what npm tells the script that runs these tests is not for the npm that they run
  const kept = Object.entries(process.env).filter(([name]) => !name.toLowerCase().startsWith('npm_'));
  const npm = {
    npm_config_cache: join(folder, 'cache'),
    npm_config_offline: 'true',
    npm_config_update_notifier: 'false',
  };
  const env = { ...Object.fromEntries(kept), ...npm, ...environment };
  const { status, stdout, stderr } = spawnSync(command, parameters, { cwd: clone, env, encoding: 'utf8' });
  return { code: status, output: stdout + stderr };
}

describe('a clone', () => {
  it('without the compiler is neither packed nor installed without its program, and says what to do', () => {
    const prefix = join(folder, 'none');
    mkdirSync(prefix);
    for (const parameters of [['pack'], ['install', '--global', '--prefix', prefix, '.']]) {
      const { code, output } = run('npm', parameters);
      expect(output, parameters[0]).toContain('imgfuse is not built: run "npm ci" in its folder first');
      expect(code, parameters[0]).not.toBe(0);
    }
  });

  it('of which only the program is wanted may be installed without the compiler', () => {
    expect(run(process.execPath, ['scripts/prepare.mjs'], { npm_command: 'ci', npm_config_omit: 'dev' }).code).toBe(0);
  });

  it(
    'is built when it is packed, and the packed file installs a program that runs, without any script',
    () => {
      symlinkSync(join(ROOT, 'node_modules'), join(clone, 'node_modules'));
      const packed = run('npm', ['pack', '--silent', '--pack-destination', folder]);
      expect(packed).toMatchObject({ code: 0 });
      const file = join(folder, packed.output.trim().split('\n').at(-1)!);
      const names = run('tar', ['-tzf', file]).output.split('\n');
      for (const name of [
        'dist/cli.js',
        'dist/program/load.cjs',
        'dist/program/main.cjs',
        'dist/program/worker-entry.cjs',
        'dist/program/cli.cjs',
        'README.md',
        'LICENSE',
        'scripts/man/imgfuse.1',
      ]) {
        expect(names).toContain(`package/${name}`);
      }
      expect(names.filter((name) => /^package\/(src|test|node_modules)\//.test(name))).toEqual([]);

      // npm installs it without its dependencies, which are those of this checkout: no test needs a network
      run('tar', ['-xzf', file, '-C', folder]);
      const manifest = JSON.parse(readFileSync(join(folder, 'package/package.json'), 'utf8')) as Record<
        string,
        unknown
      >;
      const alone = { ...manifest, dependencies: {}, optionalDependencies: {} };
      writeFileSync(join(folder, 'package/package.json'), JSON.stringify(alone));
      const prefix = join(folder, 'prefix');
      const options = ['--global', '--prefix', prefix, '--ignore-scripts', '--install-links', '--no-audit'];
      expect(run('npm', ['install', ...options, join(folder, 'package')])).toMatchObject({ code: 0 });
      const installed = join(prefix, 'lib/node_modules/imgfuse');
      rmSync(join(installed, 'node_modules'), { recursive: true, force: true });
      symlinkSync(join(ROOT, 'node_modules'), join(installed, 'node_modules'));
      const program = join(prefix, 'bin/imgfuse');
      expect(run(program, ['--version'])).toEqual({ code: 0, output: `${manifest['version']}\n` });
      expect(run(program, ['create', '-f', 'qed', join(folder, 'a.qed'), '1M'])).toMatchObject({ code: 0 });
      expect(run(program, ['check', join(folder, 'a.qed')]).output).toContain('No errors were found');
      expect(existsSync(join(prefix, 'share/man/man1/imgfuse.1'))).toBe(true);
    },
    TIMEOUT_MS,
  );
});
