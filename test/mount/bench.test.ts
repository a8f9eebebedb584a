// What measures time. The benchmark runs and prints its rows for QED and qcow2; the ones with a wide margin to QEMU (QED's) must
// keep it. A mount may take some starts of node.

import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
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

function timed(action: () => void): number {
  const start = performance.now();
  action();
  return performance.now() - start;
}

test('a mount takes 400 ms at most from command to usable mount, or twelve starts of node', (context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-f', 'qed', 'a.qed', '64M');
  const times: number[] = [];
  const bare: number[] = [];
  for (let round = 0; round < 10; round++) {
    bare.push(timed(() => execFileSync(process.execPath, ['-e', '0'])));
    times.push(
      timed(() => {
        expect(bench.imgfuse('mount', 'a.qed', 'mnt')).toEqual({ code: 0, stdout: '', stderr: '' });
        statSync(bench.path('mnt/disk.raw'));
      }),
    );
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  }
  // the best of both, because other work on the machine only makes them slower. A mount is two starts of node and those of its
  // threads: six times one start on an idle machine, more where they compete for the cores
  const [best, bareBest] = [Math.min(...times), Math.min(...bare)];
  const limit = Math.max(400, 12 * bareBest);
  console.log(
    `from command to usable mount: ${best.toFixed(0)} ms of at most ${limit.toFixed(0)} ms; ` +
      `node -e 0 takes ${bareBest.toFixed(0)} ms`,
  );
  expect(best).toBeLessThan(limit);
});
