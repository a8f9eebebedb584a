// What measures time. The benchmark runs and prints its rows for QED and qcow2; the ones with a wide margin to QEMU (QED's) must
// keep it. A mount may take some starts of node.

import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench } from './cli-harness.ts';

const SCRIPT = fileURLToPath(new URL('../../scripts/bench.mjs', import.meta.url));

interface Figures {
  readonly samples: readonly number[];
  readonly median: number;
}
interface Row {
  readonly section: string;
  readonly row: string;
  readonly subjects: readonly (Figures & { readonly name: string })[];
  readonly ratios: readonly (Figures & { readonly to: string })[];
}

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

test('npm run bench prints allocating writes of both transports and QEMU, and the kernel transport is ahead', {
  timeout: 480_000,
}, (context) => {
  requireOrSkip(
    context,
    canMountAsRoot() && hasCommand('fio') && hasCommand('qemu-storage-daemon'),
    'root, fio and qemu-storage-daemon',
  );
  const rows = measure('alloc', '--formats', 'qed,qcow2', '--only', 'random 4k, depth 16');
  for (const format of ['qed', 'qcow2']) {
    const [row, ...more] = rows.filter(({ section }) => section.startsWith(`${format}, 16 GiB`));
    expect(more).toEqual([]);
    expect(row!.subjects.map(({ name }) => name)).toEqual(['imgfuse', 'imgfuse, fuse-native', 'QEMU']);
    expect(row!.ratios.map(({ to }) => to)).toEqual(['imgfuse, fuse-native', 'QEMU']);
    if (format === 'qed') expect(row!.ratios[1]!.median).toBeGreaterThan(1);
  }
  const start = measure('start', '--only', 'command to usable mount').find(
    ({ row }) => row === 'command to usable mount',
  );
  expect(start!.subjects[0]!.median).toBeGreaterThan(0);
});

/** One group of rows, measured as fast as it goes. */
function measure(group: string, ...options: string[]): Row[] {
  const { code, stdout, stderr } = bench.run(
    process.execPath,
    [SCRIPT, '--quick', '--output', 'json', '--rows', group, ...options],
    { timeout: 220_000 },
  );
  expect(code, stderr).toBe(0);
  return (JSON.parse(stdout) as { rows: Row[] }).rows;
}

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
