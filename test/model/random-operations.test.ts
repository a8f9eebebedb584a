// Random operations on tiny clusters against a plain byte array, so that every table boundary is crossed; after each run
// the image is closed, checked and read once more.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import type { Image, ImageFormat } from '../../src/format/image-format.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import { MemoryHostFile } from '../../src/host/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';

type Operation =
  | {
      readonly kind: 'write' | 'zero' | 'discard' | 'preallocate' | 'copyUp';
      readonly at: number;
      readonly length: number;
      readonly byte: number;
    }
  | { readonly kind: 'resize'; readonly size: number }
  | { readonly kind: 'flush' | 'maintain' | 'reopen' };

const MAX_SIZE = 3 * 1024 * 1024;
const RUNS = Number(process.env['MODEL_RUNS'] ?? 60);

/** Clustered around table and cluster boundaries, where mistakes live. */
const position = fc.oneof(
  fc.nat(MAX_SIZE),
  fc
    .tuple(fc.nat(MAX_SIZE / 4096), fc.integer({ min: -520, max: 520 }))
    .map(([cluster, off]) => Math.max(0, cluster * 4096 + off)),
);
const extent = fc.oneof(
  fc.integer({ min: 1, max: 700 }),
  fc.integer({ min: 1, max: 40_000 }),
  fc.constant(4096),
  fc.constant(65536),
  fc.constant(1024 * 1024),
);

const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      at: position,
      length: extent,
      byte: fc.integer({ min: 1, max: 255 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('zero' as const), at: position, length: extent, byte: fc.constant(0) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('discard' as const), at: position, length: extent, byte: fc.constant(0) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom('preallocate' as const, 'copyUp' as const),
      at: position,
      length: extent,
      byte: fc.constant(0),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('resize' as const), size: fc.nat(MAX_SIZE / 512).map((n) => n * 512) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom('flush' as const, 'maintain' as const, 'reopen' as const) }),
  },
);

interface Subject {
  readonly name: string;
  readonly format: ImageFormat;
  readonly options: Readonly<Record<string, string>>;
  readonly backing: 'none' | 'raw' | 'qed';
}

const subjects: readonly Subject[] = [
  { name: 'raw', format: raw, options: {}, backing: 'none' },
  ...(['none', 'raw', 'qed'] as const).flatMap((backing) =>
    [
      { cluster_size: '4k', table_size: '1' },
      { cluster_size: '4k', table_size: '2' },
      { cluster_size: '16k', table_size: '1' },
      { cluster_size: '64k', table_size: '4' },
    ].map((options) => ({
      name: `qed ${options.cluster_size}/${options.table_size}, backing ${backing}`,
      format: qed as ImageFormat,
      options,
      backing,
    })),
  ),
  ...(['none', 'raw', 'qed'] as const).flatMap((backing) =>
    [{ cluster_size: '512' }, { cluster_size: '4k' }, { cluster_size: '4k', compat: '0.10' }].map((options) =>
      qcow2Subject(options, backing),
    ),
  ),
  qcow2Subject({ cluster_size: '512', refcount_bits: '1' }, 'none'),
  qcow2Subject({ cluster_size: '512', refcount_bits: '64' }, 'raw'),
  qcow2Subject({ cluster_size: '16k', extended_l2: 'on' }, 'qed'),
];

function qcow2Subject(options: Readonly<Record<string, string>>, backing: Subject['backing']): Subject {
  return { name: `qcow2 ${Object.values(options).join('/')}, backing ${backing}`, format: qcow2, options, backing };
}

describe.each(subjects)('random operations on $name', ({ format, options, backing }) => {
  test('read back as a byte array does, and leave a clean image', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: MAX_SIZE / 512 }),
        fc.array(operation, { maxLength: 40 }),
        (sectors, operations) => {
          runOperations(format, options, backing, sectors * 512, operations);
        },
      ),
      { numRuns: RUNS },
    );
  });
});

function makeBacking(kind: Subject['backing']): Image | null {
  if (kind === 'none') return null;
  const size = 1024 * 1024 + 512;
  const bytes = new Uint8Array(size).map((_, i) => ((i >> 9) * 7 + i) & 0xff);
  // holes, so that some of it is known to read as zeros
  bytes.fill(0, 300_000, 600_000);
  if (kind === 'raw') return openImage(raw, new MemoryHostFile(bytes, '/base'), { readOnly: false });
  const file = createMemoryImage(qed, size, { cluster_size: '4k', table_size: '1' });
  const image = openImage(qed, file);
  image.write(bytes, 0, 300_000, guestOffset(0));
  image.write(bytes, 600_000, size - 600_000, guestOffset(600_000));
  image.close();
  return openImage(qed, new MemoryHostFile(file.bytes(), '/base', true), { readOnly: true });
}

function runOperations(
  format: ImageFormat,
  options: Readonly<Record<string, string>>,
  backingKind: Subject['backing'],
  size: number,
  operations: readonly Operation[],
): void {
  const backing = makeBacking(backingKind);
  const file = createMemoryImage(format, size, options, backing === null ? undefined : '/base');
  // a cache of two slices evicts at every turn
  const open = () => openImage(format, file, { backing, tableCacheBytes: 8192 });
  let image = open();
  let model = new Uint8Array(size);
  if (backing !== null) {
    const below = new Uint8Array(Math.min(size, backing.virtualSize()));
    backing.read(below, 0, below.length, guestOffset(0));
    model.set(below);
  }
  let now = Date.now();
  for (const step of operations) {
    switch (step.kind) {
      case 'resize': {
        const resized = new Uint8Array(step.size);
        resized.set(model.subarray(0, step.size));
        model = resized;
        image.resize(step.size);
        break;
      }
      case 'flush':
        image.flush();
        break;
      case 'maintain':
        now += 6000;
        image.maintain(now);
        break;
      case 'reopen':
        image.close();
        expectClean(format, file);
        image = open();
        break;
      default: {
        const at = Math.min(step.at, model.length);
        const length = Math.min(step.length, model.length - at);
        if (length === 0) break;
        if (step.kind === 'preallocate' || step.kind === 'copyUp') {
          image[step.kind](guestOffset(at), length);
          break;
        }
        model.fill(step.byte, at, at + length);
        if (step.kind === 'write') image.write(new Uint8Array(length).fill(step.byte), 0, length, guestOffset(at));
        else if (step.kind === 'zero') image.writeZeroes(guestOffset(at), length);
        else image.discard(guestOffset(at), length);
      }
    }
    expectEqual(image, model);
  }
  image.close();
  expectClean(format, file);
  expectEqual(open(), model);
}

function expectEqual(image: Image, model: Uint8Array): void {
  expect(image.virtualSize()).toBe(model.length);
  const bytes = new Uint8Array(model.length).fill(0xee);
  image.read(bytes, 0, bytes.length, guestOffset(0));
  const difference = Buffer.compare(bytes, model) === 0 ? -1 : bytes.findIndex((byte, i) => byte !== model[i]);
  expect(difference, 'first byte that differs').toBe(-1);
}

function expectClean(format: ImageFormat, file: MemoryHostFile): void {
  if (format.name === 'raw') return;
  const findings: string[] = [];
  const report = format.check(file, { repair: 'none', log: (sentence) => findings.push(sentence) });
  expect(findings).toEqual([]);
  expect(report.leaks).toBe(0);
  expect(format.inspect(file).dirty).toBe(false);
}
