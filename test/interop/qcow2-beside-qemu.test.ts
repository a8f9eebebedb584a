// The same random operations on two copies of a qcow2 image, one through our engine, the other through qemu-io: in the end
// both read the same and both are clean.

import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { openImage } from '../support/memory-images.ts';
import { hasQemu, qemuCheck, qemuImg } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const RUNS = sliceOf('besideQemu', 'qcow2');
const SECTOR = 512;
/** with clusters of 512 bytes: 160 L2 tables in three clusters of L1 */
const SECTORS = 10_240;

let folder: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

type Operation =
  | {
      readonly kind: 'write' | 'zero' | 'unmap' | 'discard';
      readonly at: number;
      readonly count: number;
      readonly byte: number;
    }
  | { readonly kind: 'resize'; readonly at: number }
  | { readonly kind: 'flush' };

/** Sectors, clustered around where tables and clusters end. */
const sector = fc.oneof(
  fc.nat(SECTORS - 1),
  fc
    .tuple(fc.nat(SECTORS / 64 - 1), fc.integer({ min: -2, max: 2 }))
    .map(([table, off]) => Math.max(0, table * 64 + off)),
);
const count = fc.oneof(
  fc.integer({ min: 1, max: 3 }),
  fc.integer({ min: 1, max: 40 }),
  fc.integer({ min: 1, max: 700 }),
);
const ranged = (...kinds: readonly ('write' | 'zero' | 'unmap' | 'discard')[]): fc.Arbitrary<Operation> =>
  fc.record({
    kind: fc.constantFrom(...kinds),
    at: sector,
    count,
    byte: fc.integer({ min: 1, max: 255 }),
  });
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 8, arbitrary: ranged('write') },
  { weight: 4, arbitrary: ranged('zero', 'unmap', 'discard') },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('resize' as const), at: fc.integer({ min: 1, max: SECTORS }) }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: 'flush' as const }) },
);

interface Variant {
  readonly options: string;
  readonly clusterSectors: number;
  readonly backing: boolean;
}

const variants: readonly Variant[] = [
  { options: 'cluster_size=512', clusterSectors: 1, backing: false },
  { options: 'cluster_size=512', clusterSectors: 1, backing: true },
  { options: 'cluster_size=512,refcount_bits=1', clusterSectors: 1, backing: false },
  { options: 'cluster_size=512,compat=0.10', clusterSectors: 1, backing: true },
  { options: 'cluster_size=4k', clusterSectors: 8, backing: false },
  { options: 'cluster_size=4k', clusterSectors: 8, backing: true },
  { options: 'cluster_size=4k,refcount_bits=64', clusterSectors: 8, backing: false },
  { options: 'cluster_size=4k,compat=0.10', clusterSectors: 8, backing: true },
  { options: 'cluster_size=16k,extended_l2=on', clusterSectors: 32, backing: true },
];

const CUT_INSIDE_A_CLUSTER: Operation[] = [
  { kind: 'write', at: 0, count: 2, byte: 1 },
  { kind: 'resize', at: 1 },
  { kind: 'resize', at: 4711 },
];

describe.each(variants)('a second copy driven by qemu-io: $options, backing: $backing', (variant) => {
  test('reads the same after the same operations', { timeout: 300_000 }, () => {
    fc.assert(
      fc.property(fc.array(operation, { minLength: 20, maxLength: 60 }), (operations) => {
        runBoth(variant, operations);
      }),
      // each step of a shrink starts QEMU four times
      { numRuns: RUNS, interruptAfterTimeLimit: 120_000, examples: [[CUT_INSIDE_A_CLUSTER]] },
    );
  });
});

function runBoth(variant: Variant, operations: readonly Operation[]): void {
  const [ours, theirs, base] = [join(folder, 'ours.qcow2'), join(folder, 'theirs.qcow2'), join(folder, 'base.raw')];
  const below = Uint8Array.from({ length: 3000 * SECTOR }, (_, i) => (i % 9000 < 5000 ? 1 + ((i >> 8) % 200) : 0));
  writeFileSync(base, below);
  const backing = variant.backing ? ['-b', base, '-F', 'raw'] : [];
  qemuImg('create', '-q', '-f', 'qcow2', '-o', variant.options, ...backing, theirs, String(SECTORS * SECTOR));
  copyFileSync(theirs, ours);

  const file = new MemoryHostFile(readFileSync(ours), ours);
  const image = openImage(qcow2, file, {
    backing: variant.backing ? openImage(raw, new MemoryHostFile(below, base), { readOnly: true }) : null,
    tableCacheBytes: 8192,
  });
  // in a version 2 image QEMU cannot hide a backing file: it does not discard, and does not grow
  const cannotZero = variant.backing && variant.options.includes('0.10');
  const commands: string[] = [];
  let sectors = SECTORS;
  for (const step of operations) {
    if (step.kind === 'flush') {
      image.flush();
      commands.push('flush');
    } else if (step.kind === 'resize') {
      if (cannotZero) continue;
      // QEMU 7.2 shows again what a disk that is cut inside a cluster had behind its end, when it grows; ours does not
      const clusterEnd = Math.ceil(step.at / variant.clusterSectors) * variant.clusterSectors;
      const cut = Math.min(clusterEnd, sectors) - step.at;
      if (cut > 0) commands.push(`write -z ${step.at * SECTOR} ${cut * SECTOR}`);
      sectors = step.at;
      image.resize(sectors * SECTOR);
      commands.push(`truncate ${sectors * SECTOR}`);
    } else {
      let start = step.at;
      let end = Math.min(sectors, step.at + step.count);
      if (step.kind === 'discard') {
        // QEMU leaves parts of clusters alone
        if (cannotZero) continue;
        start = Math.ceil(start / variant.clusterSectors) * variant.clusterSectors;
        end = Math.floor(end / variant.clusterSectors) * variant.clusterSectors;
      }
      if (start >= end) continue;
      const [offset, length] = [start * SECTOR, (end - start) * SECTOR];
      const command = { write: `write -P ${step.byte}`, zero: 'write -z', unmap: 'write -zu', discard: 'discard' };
      commands.push(`${command[step.kind]} ${offset} ${length}`);
      if (step.kind === 'write') image.write(new Uint8Array(length).fill(step.byte), 0, length, guestOffset(offset));
      else if (step.kind === 'zero') image.writeZeroes(guestOffset(offset), length);
      else image.discard(guestOffset(offset), length);
    }
  }
  expect(image.virtualSize()).toBe(sectors * SECTOR);
  image.close();
  writeFileSync(ours, file.bytes());
  const output = execFileSync(
    'qemu-io',
    ['-d', 'unmap', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), theirs],
    { encoding: 'utf8', timeout: 60_000, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  if (/failed|error/i.test(output)) throw new Error(output);
  qemuCheck(ours, 'qcow2');
  qemuCheck(theirs, 'qcow2');
  const { 'virtual-size': size } = JSON.parse(qemuImg('info', '--output=json', theirs)) as { 'virtual-size': number };
  expect(size).toBe(sectors * SECTOR);
  expect(qemuImg('compare', '-f', 'qcow2', '-F', 'qcow2', ours, theirs)).toContain('Images are identical');
}
