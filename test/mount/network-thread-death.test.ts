// The network thread dies under a mount, or under a command that opens a URL: reads of the base are errors, the disk's own
// data is there, and the mount ends clean. A command ends with a sentence.

import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RangeServer } from '../support/range-server.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, type Result } from './cli-harness.ts';

const MIB = 1024 * 1024;
const SOON_MS = 8000;

let bench: Bench;
let server: RangeServer;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  server = new RangeServer(Buffer.alloc(4 * MIB, 'base'));
});
afterEach(async () => {
  bench?.cleanUp();
  await server?.close();
});

/** How a thread ends without a word: nothing of it runs any more, as when it is out of memory. */
const END = 'process.removeAllListeners("exit"); process.exit(1);';

/** Node options with which the network thread ends at its `count`-th call of that method of the block loader. */
function dieIn(method: 'take' | 'seed', count: number): string {
  const module = new URL('host/http/block-loader.js', `file://${CLI}`).href;
  const source = `
    import { isMainThread } from 'node:worker_threads';
    if (!isMainThread) {
      const { BlockLoader } = await import(${JSON.stringify(module)});
      const before = BlockLoader.prototype.${method};
      let calls = 0;
      BlockLoader.prototype.${method} = function (...given) {
        if (++calls === ${count}) { ${END} }
        return before.apply(this, given);
      };
    }`;
  return `--import=data:text/javascript,${encodeURIComponent(source)}`;
}

function imgfuse(nodeOption: string, ...parameters: readonly string[]): Result {
  const environment = { ...bench.environment(), NODE_OPTIONS: nodeOption };
  return bench.run(process.execPath, [bench.modulesCli(), ...parameters], { env: environment });
}

/** Reads of the disk. @returns the code of the error, or null */
function readError(offset: number): string | null {
  const disk = openSync(bench.path('mnt/disk.raw'), 'r');
  const start = performance.now();
  try {
    readSync(disk, Buffer.alloc(512), 0, 512, offset);
    return null;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'no code';
  } finally {
    closeSync(disk);
    expect(performance.now() - start).toBeLessThan(SOON_MS);
  }
}

test('with the lock of its cache: reads of the base fail, those of the overlay do not, and the end is clean', () => {
  const url = `${server.origin}/base.raw`;
  expect(bench.imgfuse('create', '-q', '-f', 'qcow2', '-b', url, '-F', 'raw', 'disk.qcow2')).toMatchObject({ code: 0 });
  // the first call comes when it begins to serve, the second with the first read
  const mount = imgfuse(dieIn('take', 2), 'mount', '--allow-backing', url, 'disk.qcow2', 'mnt');
  expect(mount).toMatchObject({ code: 0 });
  const disk = openSync(bench.path('mnt/disk.raw'), 'r+');
  writeSync(disk, Buffer.alloc(65536, 'own'), 0, 65536, 0);
  expect(readError(2 * MIB)).toBe('EIO');
  expect(readError(3 * MIB)).toBe('EIO');
  writeSync(disk, Buffer.alloc(65536, 'new'), 0, 65536, 65536);
  closeSync(disk);
  expect(readError(0)).toBe(null);
  const [{ log }] = JSON.parse(bench.imgfuse('status', '--output=json', 'mnt').stdout) as [{ log: string }];
  expect(readFileSync(log, 'utf8')).toContain(`a thread died while it was changing the blocks of ${url}`);
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });
  expect(bench.imgfuse('check', 'disk.qcow2')).toMatchObject({ code: 0 });
});

test.each([
  ['while it answers an open', 'seed', 1, /the network thread of this process has died/],
  ['while it fetches', 'take', 2, /a thread died while it was changing the blocks of/],
] as const)('a command ends with a sentence when the thread dies %s', (_, method, count, sentence) => {
  const { code, stdout } = bench.imgfuse('create', '-q', '-f', 'qcow2', 'made.qcow2', '4M');
  expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
  server.replace(readFileSync(bench.path('made.qcow2')));
  const start = performance.now();
  const checked = imgfuse(dieIn(method, count), 'check', `${server.origin}/made.qcow2`);
  expect(checked.stderr).toMatch(sentence);
  expect(checked.stderr.trim().split('\n')).toHaveLength(1);
  expect(checked.code).toBe(1);
  expect(performance.now() - start).toBeLessThan(SOON_MS);
});
