// The package as `npm pack` makes it, installed into an empty prefix: without scripts of packages, without a compiler, without a
// network (a registry of what is installed here serves its dependencies), and without the checkout. With the Node that runs the
// tests, and with those of IMGFUSE_NODES (paths, separated by colons; scripts/package.sh gets some).

import { execFile, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench } from './cli-harness.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const NODES = [process.execPath, ...(process.env['IMGFUSE_NODES'] ?? '').split(':').filter((path) => path !== '')];
/** The script behind the command. */
const NPM = (process.env['PATH'] ?? '')
  .split(':')
  .map((folder) => join(folder, 'npm'))
  .find(existsSync);

const run = promisify(execFile);
let bench: Bench;
let tarball = '';
let registry: ReturnType<typeof spawn>;
let origin = '';

beforeAll(async () => {
  bench = new Bench();
  const packed = await npm(ROOT, 'pack', '--ignore-scripts', '--json', '--pack-destination', bench.directory);
  tarball = bench.path((JSON.parse(packed) as { filename: string }[])[0]!.filename);
  const parameters = [
    join(ROOT, 'test/support/local-registry.mjs'),
    join(ROOT, 'node_modules'),
    bench.makeDirectory('r'),
  ];
  registry = spawn(process.execPath, parameters, { stdio: ['pipe', 'pipe', 'inherit'] });
  origin = await new Promise((resolve) => registry.stdout!.once('data', (text) => resolve(String(text).trim())));
});
afterAll(() => {
  registry?.stdin?.end();
  bench?.cleanUp();
});

/** npm on the Node of the tests, with no other program than those of `tools` in its path. */
async function npm(cwd: string, ...parameters: readonly string[]): Promise<string> {
  const tools = bench.path('tools');
  if (!existsSync(tools)) {
    mkdirSync(tools);
    symlinkSync(process.execPath, join(tools, 'node'));
    symlinkSync('/bin/sh', join(tools, 'sh'));
  }
  const env = { PATH: tools, HOME: bench.directory, npm_config_cache: bench.path('cache'), npm_config_audit: 'false' };
  const { stdout } = await run(process.execPath, [realpathSync(NPM!), ...parameters], {
    cwd,
    env: { ...env, npm_config_fund: 'false' },
  });
  return stdout;
}

describe('the packed file', () => {
  test('has the program, its manual, the library with its types, and nothing else', async () => {
    const { stdout } = await run('tar', ['-tzf', tarball]);
    const names = stdout
      .trim()
      .split('\n')
      .map((name) => name.replace('package/', ''));
    const wanted = [
      /^(package\.json|README\.md|LICENSE)$/,
      /^dist\/(cli|index)\.js$/,
      /^dist\/(index|errors\/index|errors\/suggest)\.d\.ts$/,
      /^dist\/program\/([\w-]+\.cjs|LICENSES\.txt)$/,
      /^scripts\/(man\/imgfuse\.1|imgfuse@\.service)$/,
      /^native-notes\/([\w-]+\/)?[\w-]+\.md$/,
      /^native-notes\/terminal\.svg$/,
    ];
    expect(names.filter((name) => !wanted.some((pattern) => pattern.test(name)))).toEqual([]);
    for (const pattern of wanted) expect([pattern, names.some((name) => pattern.test(name))]).toEqual([pattern, true]);
    expect(statSync(tarball).size).toBeLessThan(1024 * 1024);
  });

  test('needs no package at run time but the optional ones', async () => {
    const { stdout } = await run('tar', ['-xzOf', tarball, 'package/package.json']);
    const manifest = JSON.parse(stdout) as Record<string, unknown>;
    expect(manifest['dependencies']).toBeUndefined();
    expect(Object.keys(manifest['optionalDependencies'] as object).sort()).toEqual(['fuse-native', 'koffi']);
    expect(manifest['private']).toBeUndefined();
  });
});

describe.each(NODES)('installed for %s', (node) => {
  let prefix = '';
  const imgfuse = (...parameters: readonly string[]) => bench.run(node, [join(prefix, 'bin/imgfuse'), ...parameters]);

  beforeAll(async () => {
    prefix = bench.makeDirectory(`prefix-${NODES.indexOf(node)}`);
    const options = ['--global', '--ignore-scripts', '--registry', origin, '--prefix', prefix];
    await npm(bench.directory, 'install', ...options, tarball);
  });

  test('it mounts, looks and checks, by system calls of its own', (context) => {
    requireOrSkip(context, canMountAsRoot() && hasCommand('qemu-img'), 'root, /dev/fuse and qemu-img');
    const image = bench.path(`disk-${NODES.indexOf(node)}.qcow2`);
    const mountpoint = bench.makeDirectory(`mnt-${NODES.indexOf(node)}`);
    expect(imgfuse('create', '-q', '-f', 'qcow2', image, '8M')).toMatchObject({ code: 0, stderr: '' });
    expect(imgfuse('mount', image, mountpoint)).toMatchObject({ code: 0, stderr: '' });
    writeFileSync(join(mountpoint, 'disk.raw'), Buffer.alloc(65536, 'x'), { flag: 'r+' });
    const status = imgfuse('status', '--output=json', mountpoint);
    expect(JSON.parse(status.stdout)).toMatchObject([{ transport: 'kernel', state: 'mounted' }]);
    expect(imgfuse('unmount', mountpoint)).toMatchObject({ code: 0, stderr: '' });
    expect(imgfuse('check', '-q', image)).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(imgfuse('info', '--output=json', image).stdout)).toMatchObject({ format: 'qcow2' });
    expect(bench.run('qemu-img', ['check', '-q', image]).code).toBe(0);
  });

  test('it says its version and its help, also beside characters that are not ASCII', () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    expect(imgfuse('--version')).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' });
    expect(imgfuse('mount', '--help').stdout).toContain('full=wait');
    expect(imgfuse('info', 'keine-Datei-ä.qcow2').stderr).toContain('keine-Datei-ä.qcow2 does not exist');
  });

  test('its manual page is where man looks for it', (context) => {
    requireOrSkip(context, hasCommand('man'), 'man');
    const page = join(prefix, 'share/man/man1/imgfuse.1');
    expect(bench.run('man', ['-M', join(prefix, 'share/man'), '-w', 'imgfuse']).stdout.trim()).toBe(realpathSync(page));
  });

  test('it has no compiled code of another Node, and writes none', () => {
    const program = join(prefix, 'lib/node_modules/imgfuse/dist/program');
    expect(readdirSync(program).filter((name) => !/\.(cjs|txt)$/.test(name))).toEqual([]);
  });
});

describe.each(NODES)('as a library for %s', (node) => {
  let project = '';
  beforeAll(async () => {
    project = bench.makeDirectory(`project-${NODES.indexOf(node)}`);
    writeFileSync(join(project, 'package.json'), '{ "type": "module" }');
    await npm(project, 'install', '--ignore-scripts', '--registry', origin, tarball);
  });

  const SOURCE = `
import { createDisk, type Disk, formats, type ImageInfo, ImgfuseError, openDisk, probe } from 'imgfuse';

const size: number = createDisk('a.qcow2', 'qcow2', { size: 8 * 1024 * 1024, options: { cluster_size: '4k' } });
const disk: Disk = openDisk('a.qcow2', { readOnly: false });
disk.write(new TextEncoder().encode('hello'), 4096);
disk.flush();
const bytes = new Uint8Array(5);
const count: number = disk.read(bytes, 4096);
const data = [...disk.extents()].filter(({ status }) => status === 'data').map(({ start, length }) => [start, length]);
disk.close();
const info: ImageInfo = probe('a.qcow2');
let kind = '';
try {
  openDisk('none.qcow2');
} catch (error) {
  if (error instanceof ImgfuseError) kind = error.kind;
}
const names = formats.filter(({ canCreate }) => canCreate).map(({ name }) => name);
console.log(JSON.stringify({ size, count, text: new TextDecoder().decode(bytes), data, info, kind, names }));
`;

  test('it makes, writes and reads a disk', () => {
    const plain = SOURCE.replaceAll(/, type \w+|: (number|Disk|ImageInfo)\b(?= =)/g, '');
    writeFileSync(join(project, 'use.mjs'), plain);
    const { stdout, stderr } = bench.run(node, ['use.mjs'], { cwd: project });
    expect(stderr).toBe('');
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ size: 8 * 1024 * 1024, count: 5, text: 'hello', data: [[4096, 4096]], kind: 'missing' },
      info: { format: 'qcow2', clusterSize: 4096, isDirty: false, backingFile: null },
      names: expect.arrayContaining(['qcow2', 'qed', 'raw']),
    });
  });

  // they are the same for every Node
  if (node === NODES[0])
    test('its types are whole', () => {
      writeFileSync(join(project, 'use.ts'), SOURCE);
      const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2023', '--lib', 'es2023,dom'];
      const tsc = join(ROOT, 'node_modules/typescript/lib/tsc.js');
      const result = bench.run(process.execPath, [tsc, ...options, 'use.ts'], { cwd: project });
      expect(result).toEqual({ code: 0, stdout: '', stderr: '' });
    });
});
