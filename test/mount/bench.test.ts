// The benchmark runs and prints its rows for QED and qcow2; the ones with a wide margin to QEMU (QED's) must keep it. How long a mount may take is
// tested in daemon-life.test.ts, which allows for a slow machine.

import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench } from './cli-harness.ts';

const SCRIPT = fileURLToPath(new URL('../../scripts/bench.mjs', import.meta.url));

interface Row {
  readonly group: string;
  readonly row: string;
  readonly unit: string;
  readonly figures: Readonly<Record<string, number>>;
}

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

test('npm run bench prints allocating writes of both transports and QEMU, and the kernel transport is ahead', {
  timeout: 240_000,
}, (context) => {
  requireOrSkip(
    context,
    canMountAsRoot() && hasCommand('fio') && hasCommand('qemu-storage-daemon'),
    'root, fio and qemu-storage-daemon',
  );
  const { code, stdout, stderr } = bench.run(
    process.execPath,
    [SCRIPT, '--seconds', '1', '--rounds', '1', '--rows', 'random 4k, depth 16', '--json'],
    { timeout: 230_000 },
  );
  expect(code, stderr).toBe(0);
  const rows = JSON.parse(stdout) as Row[];
  for (const format of ['qed', 'qcow2']) {
    const writes = rows.filter(({ group, unit }) => group.startsWith(`${format}, 16 GiB`) && unit === 'IOPS');
    expect(writes.map(({ row }) => row)).toEqual(['random 4k, depth 16']);
    for (const { row, figures } of writes) {
      expect(Object.keys(figures)).toEqual(['imgfuse', 'imgfuse, fuse-native', 'QEMU']);
      if (format === 'qed') expect(figures['imgfuse'], row).toBeGreaterThan(figures['QEMU']!);
    }
  }
  expect(rows.find(({ row }) => row === 'command to usable mount')!.figures['imgfuse']).toBeGreaterThan(0);
});
