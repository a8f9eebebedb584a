// A slice of npm run stress: random requests of many threads on one mounted disk, every format and both transports, which have a
// test file each. SEED chooses them.

import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { drawnRows } from '../support/drawn-rows.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench } from './cli-harness.ts';

const SCRIPT = fileURLToPath(new URL('../../scripts/stress.mjs', import.meta.url));
const SEED = process.env['SEED'] ?? String(Date.now() % 1_000_000);

const FORMATS = [
  ['raw', '', false],
  ['qed', 'cluster_size=4k,table_size=2', false],
  ['qed', '', true],
  ['qcow', '', false],
  ['qcow', '', true],
  ['vdi', '', false],
  ['vpc', 'block_size=64k', false],
  ['vhdx', 'block_size=1M', false],
  ['vdi', 'static=on', false],
  ['vmdk', '', false],
  ['parallels', 'cluster_size=4k', false],
  ['vmdk', 'subformat=twoGbMaxExtentSparse,grain_size=4k', false],
  ['vdi', 'block_size=64k', true],
  ['vpc', 'block_size=64k', true],
  ['vhdx', 'block_size=1M', true],
  ['qcow2', 'cluster_size=512', false],
  ['qcow2', '', true],
  ['qcow2', 'cluster_size=16k,extended_l2=on', true],
] as const;

/** The tests of a file. */
export function testStress(transport: 'kernel' | 'fuse-native'): void {
  let bench: Bench;
  beforeEach(() => {
    bench = new Bench();
  });
  afterEach(() => bench.cleanUp());

  // fuse-native has one thread
  const rows = drawnRows(FORMATS, ([format]) => transport === 'kernel' && format === 'qcow2');
  for (const [format, options, backing] of rows) {
    const name = `${format} ${options}${backing ? ' with a backing file' : ''}, ${transport}`;
    test(`many threads on one disk read only what some order of their requests explains: ${name}`, (context) => {
      requireOrSkip(context, canMountAsRoot() && hasCommand('qemu-img'), 'root and qemu-img');
      const parameters = [
        '--rounds',
        String(sliceOf('stress', format)),
        '--seed',
        SEED,
        '--format',
        format,
        '--transport',
        transport,
      ];
      if (options !== '') parameters.push('--options', options);
      if (backing) parameters.push('--backing');
      const { code, stdout, stderr } = bench.run(process.execPath, [SCRIPT, ...parameters], { timeout: 110_000 });
      expect(code, `${stdout}\n${stderr}`).toBe(0);
      expect(stdout).toMatch(/^stress: \d{4,} requests, 0 wrong$/m);
    });
  }
}
