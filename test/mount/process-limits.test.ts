// A mount under limits of its process (ulimit): one that is too small is named with what is needed before anything is opened,
// and what is needed does not grow with what an image might become.

import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, mountsUnder, type Result } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-q', '-f', 'qcow2', 'a.qcow2', '64M');
});
afterEach(() => bench?.cleanUp());

function mountUnder(limit: string, ...options: readonly string[]): Result {
  const command = `${limit}; exec "$@"`;
  return bench.run('bash', ['-c', command, 'sh', process.execPath, CLI, 'mount', ...options, 'a.qcow2', 'mnt']);
}

function addressSpaceMib(): number {
  const kib = /^VmSize:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${bench.daemonPid()}/status`, 'utf8'))![1];
  return Number(kib) / 1024;
}

function use(): void {
  expect(bench.run('dd', ['if=/dev/zero', 'of=mnt/disk.raw', 'bs=1M', 'count=8', 'conv=notrunc,fsync']).code).toBe(0);
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0, stderr: '' });
}

it('2 GiB of address space are enough, for writing too', () => {
  expect(mountUnder('ulimit -v 2097152', '--workers', '2')).toMatchObject({ code: 0, stderr: '' });
  use();
});

it.each([
  [
    'ulimit -v 1572864',
    'the limit of address space is 1536 MiB (ulimit -v), and a mount with 2 workers needs 1792 MiB',
  ],
  ['ulimit -n 128', 'the limit of open files is 128 (ulimit -n), and a mount with 2 workers needs 160'],
])('under %s a mount is refused by name', (limit, sentence) => {
  for (const mode of [[], ['-f']]) {
    const result = mountUnder(limit, '--workers', '2', ...mode);
    expect(result.stderr).toBe(`imgfuse: ${sentence}; raise it, or use fewer workers (--workers 1)\n`);
    expect(result.code).toBe(2);
  }
  expect(mountsUnder(bench.directory)).toEqual([]);
});

it('128 open files are enough for one worker, whatever else was left open above that', () => {
  expect(mountUnder('exec 200</dev/null; ulimit -n 128', '--workers', '1')).toMatchObject({ code: 0, stderr: '' });
  use();
});

it.each([20, 23, 26])('a program that cannot even be loaded with %i files says so, without a stack', (files) => {
  const result = mountUnder(`ulimit -n ${files}`);
  expect(result.stderr).not.toMatch(/internal error|\n {4}at /);
  expect(result.code).toBeGreaterThan(0);
});

it('a program that runs out of files on the way says so, without a stack', () => {
  const result = mountUnder('ulimit -n 32');
  expect(result.stderr).toMatch(
    /^imgfuse: .*open files|^imgfuse: too many files are open: the limit is 32 \(ulimit -n\)\n$/,
  );
  expect(result.stderr).not.toMatch(/internal error|\n {4}at /);
  expect(result.code).toBeGreaterThan(0);
});

it('each image of a chain takes the address space of its own tables, not of the largest there are', () => {
  for (let depth = 1; depth <= 10; depth++) {
    const below = depth === 1 ? 'a.qcow2' : `${depth - 1}.qcow2`;
    bench.imgfuse('create', '-q', '-f', 'qcow2', '-b', below, '-F', 'qcow2', `${depth}.qcow2`);
  }
  expect(bench.imgfuse('mount', '--workers', '1', 'a.qcow2', 'mnt').code).toBe(0);
  const one = addressSpaceMib();
  expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  expect(bench.imgfuse('mount', '--workers', '1', '10.qcow2', 'mnt').code).toBe(0);
  const eleven = addressSpaceMib();
  expect(one).toBeLessThan(1536);
  expect(eleven - one).toBeLessThan(200);
  expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
});
