// Random operations on tiny clusters against a plain byte array, so that every table boundary is crossed; after each run
// the image is closed, checked and read once more. Some of the images that are left behind are judged by qemu-img check and
// compare as well. Images come in pieces of a hundred, each with a seed of its own, so that any of them can run alone.

import { strict as assert } from 'node:assert';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { steadyMs } from '../../src/concurrency/clock.ts';
import type { ClosedFacts, WritableFormat, WritableImage } from '../../src/format/image-format.ts';
import { qcow } from '../../src/format/qcow/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import { vdi } from '../../src/format/vdi/index.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { vmdk } from '../../src/format/vmdk/index.ts';
import { vpc } from '../../src/format/vpc/index.ts';
import { factsOf } from './closed-facts.ts';
import { MemoryHostFile } from './memory-file.ts';
import { checkImage, createMemoryImage, openImage } from './memory-images.ts';
import { oldKindOfParallels, plainParallels } from './plain-parallels.ts';
import { qemuCheck, qemuImg } from './qemu.ts';
import { seedOf } from './random.ts';
import { reusingSharedMemory } from './reused-memory.ts';

type Operation =
  | {
      readonly kind: 'write' | 'zero' | 'discard' | 'preallocate' | 'copyUp';
      readonly at: number;
      readonly length: number;
      readonly byte: number;
    }
  | { readonly kind: 'resize'; readonly size: number }
  | { readonly kind: 'flush' | 'maintain' | 'reopen' };

/** Disks are at most so long: more than the backing file, and more than a table of 512 clusters of 4 KiB maps. */
const BEYOND_BACKING = 1280 * 1024;
const BEYOND_A_TABLE = 2560 * 1024;
const SMALL = 192 * 1024;

const extent = fc.oneof(
  fc.integer({ min: 1, max: 700 }),
  fc.integer({ min: 1, max: 40_000 }),
  fc.constant(4096),
  fc.constant(65536),
  fc.constant(1024 * 1024),
);

/** Sectors of a disk: most are small, where operations meet each other. */
function sectorsUpTo(maxSize: number): fc.Arbitrary<number> {
  const upTo = (size: number) => fc.integer({ min: 1, max: size / 512 });
  return fc.oneof({ weight: 3, arbitrary: upTo(SMALL) }, { weight: 1, arbitrary: upTo(maxSize) });
}

/** @param maxSize of the disk: what is behind its end counts from its start again */
function operationOn(maxSize: number): fc.Arbitrary<Operation> {
  // clustered around table and cluster boundaries, where mistakes live
  const position = fc.oneof(
    fc.nat(maxSize),
    fc
      .tuple(fc.nat(maxSize / 4096), fc.integer({ min: -520, max: 520 }))
      .map(([cluster, off]) => Math.max(0, cluster * 4096 + off)),
  );
  const range = { at: position, length: extent };
  const unwritten = { ...range, byte: fc.constant(0) };
  const byte = fc.integer({ min: 1, max: 255 });
  const size = fc
    .oneof({ weight: 1, arbitrary: fc.constant(0) }, { weight: 9, arbitrary: sectorsUpTo(maxSize) })
    .map((sectors) => sectors * 512);
  return fc.oneof(
    { weight: 8, arbitrary: fc.record({ kind: fc.constant('write' as const), ...range, byte }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('zero' as const), ...unwritten }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('discard' as const), ...unwritten }) },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constantFrom('preallocate' as const, 'copyUp' as const), ...unwritten }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('resize' as const), size }) },
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constantFrom('flush' as const, 'maintain' as const, 'reopen' as const) }),
    },
  );
}

export interface Subject {
  readonly name: string;
  readonly format: WritableFormat;
  readonly options: Readonly<Record<string, string>>;
  readonly backing: 'none' | 'raw' | 'qed';
}

export const subjects: readonly Subject[] = [
  { name: 'raw', format: raw, options: {}, backing: 'none' },
  ...(['none', 'raw', 'qed'] as const).flatMap((backing) =>
    [
      { cluster_size: '4k', table_size: '1' },
      { cluster_size: '4k', table_size: '2' },
      { cluster_size: '16k', table_size: '1' },
      { cluster_size: '64k', table_size: '4' },
    ].map((options) => ({
      name: `qed ${options.cluster_size}/${options.table_size}, backing ${backing}`,
      format: qed as WritableFormat,
      options,
      backing,
    })),
  ),
  { name: 'vpc, fixed', format: vpc, options: { subformat: 'fixed' }, backing: 'none' },
  ...(['none', 'raw', 'qed'] as const).flatMap((backing) =>
    ['4k', '64k', '2M'].map((size) => ({
      name: `vpc ${size}, backing ${backing}`,
      format: vpc as WritableFormat,
      options: { block_size: size },
      backing,
    })),
  ),
  ...(['none', 'raw', 'qed'] as const).flatMap((backing) =>
    [{ cluster_size: '512' }, { cluster_size: '4k' }, { cluster_size: '4k', compat: '0.10' }].map((options) =>
      qcow2Subject(options, backing),
    ),
  ),
  ...(['none', 'raw', 'qed'] as const).flatMap((backing) =>
    ['4k', '64k'].map((block_size) => vdiSubject({ block_size }, backing)),
  ),
  vhdxSubject({ block_size: '1M' }, 'none'),
  vhdxSubject({ block_size: '1M', subformat: 'fixed' }, 'none'),
  vhdxSubject({ block_size: '2M', block_state_zero: 'off' }, 'none'),
  vhdxSubject({ block_size: '1M' }, 'raw'),
  vhdxSubject({ block_size: '1M' }, 'qed'),
  vhdxSubject({ block_size: '2M' }, 'qed'),
  ...(['none', 'raw', 'qed'] as const).map((backing) => ({
    name: `qcow, backing ${backing}`,
    format: qcow as WritableFormat,
    options: {},
    backing,
  })),
  ...(['none', 'raw', 'qed'] as const).flatMap((backing) => [
    vmdkSubject({ grain_size: '4k' }, backing),
    vmdkSubject({ grain_size: '16k', zeroed_grain: 'on' }, backing),
  ]),
  ...[{ cluster_size: '4k' }, { cluster_size: '64k' }, { cluster_size: '1M' }].map((options) => ({
    name: `parallels ${options.cluster_size}`,
    ...{ format: plainParallels as WritableFormat, options, backing: 'none' as const },
  })),
  { name: 'parallels of the first kind', format: oldKindOfParallels, options: {}, backing: 'none' },
  vdiSubject({ block_size: '1M' }, 'none'),
  vdiSubject({ block_size: '4k', static: 'on' }, 'none'),
  qcow2Subject({ cluster_size: '512', refcount_bits: '1' }, 'none'),
  qcow2Subject({ cluster_size: '512', refcount_bits: '64' }, 'raw'),
  qcow2Subject({ cluster_size: '16k', extended_l2: 'on' }, 'qed'),
];

/** Of the kinds with short tables, some disks have more than one. */
function maxSizeOf({ format, options }: Subject): number {
  return format === qcow || format === vhdx || (options['cluster_size'] === '4k' && options['table_size'] !== '2')
    ? BEYOND_A_TABLE
    : BEYOND_BACKING;
}

/** A VMDK image has no extent without sectors, and QEMU opens no VHDX without them. */
function leastSize(format: WritableFormat): number {
  return format === vmdk || format === vhdx ? 512 : 0;
}

function qcow2Subject(options: Readonly<Record<string, string>>, backing: Subject['backing']): Subject {
  return { name: `qcow2 ${Object.values(options).join('/')}, backing ${backing}`, format: qcow2, options, backing };
}

function vdiSubject(options: { readonly block_size: string; static?: string }, backing: Subject['backing']): Subject {
  return { name: `vdi ${Object.values(options).join('/')}, backing ${backing}`, format: vdi, options, backing };
}

function vhdxSubject(options: Readonly<Record<string, string>>, backing: Subject['backing']): Subject {
  return { name: `vhdx ${Object.values(options).join('/')}, backing ${backing}`, format: vhdx, options, backing };
}

function vmdkSubject(options: Readonly<Record<string, string>>, backing: Subject['backing']): Subject {
  return { name: `vmdk ${Object.values(options).join('/')}, backing ${backing}`, format: vmdk, options, backing };
}

/** Images of a piece, which has a seed of its own: any of them can run alone, and again. */
export const PIECE_IMAGES = 100;

export interface ModelFigures {
  operations: number;
  images: number;
  /** of these, those that qemu-img has seen */
  judged: number;
}

export interface ImagePiece {
  /** index of the subject */
  readonly kind: number;
  readonly seed: number;
  /** PIECE_IMAGES at most */
  readonly images: number;
  /** the first ones, which qemu-img sees */
  readonly judged: number;
}

/** What a qemu-img that judges an image finds below it. @param folder of the backing files */
export function writeBackingFiles(folder: string): void {
  for (const kind of ['raw', 'qed'] as const) writeFileSync(join(folder, kind), BACKING_FILES[kind].bytes());
}

/** Runs some images. @param number of the piece @param folder that has the backing files @throws with the shortest operations that show what is wrong */
export function runImages({ kind, seed, images, judged }: ImagePiece, number: number, folder: string): ModelFigures {
  const figures = { operations: 0, images: 0, judged: 0 };
  const subject = subjects[kind]!;
  const maxSize = maxSizeOf(subject);
  fc.assert(
    fc.property(
      sectorsUpTo(maxSize),
      fc.array(operationOn(maxSize), { maxLength: 60, size: 'max' }),
      (sectors, operations) => {
        const isJudged = figures.images < judged && isOpenedByQemu(subject);
        const size = Math.max(leastSize(subject.format), sectors * 512);
        reusingSharedMemory(() => runOperations(subject, size, operations, isJudged ? folder : null));
        figures.operations += operations.length;
        figures.images++;
        if (isJudged) figures.judged++;
      },
    ),
    { numRuns: images, seed: seedOf(seed, kind, number) | 0 },
  );
  return figures;
}

/**
 * QEMU 7.2 demands a table that is longer than a cluster; of VDI images it opens those with blocks of 1 MiB and no parent, and it
 * reads a differencing VHD without its parent.
 */
function isOpenedByQemu({ format, options, backing }: Subject): boolean {
  if (format === vdi) return options['block_size'] === '1M';
  // the parent is not there under its name, and is no VMDK image
  if (format === vmdk) return backing === 'none';
  // QEMU opens no differencing VHDX
  if (format === vhdx) return backing === 'none';
  if (format === vpc) return backing === 'none' && options['subformat'] !== 'fixed';
  return format !== qed || options['table_size'] !== '1';
}

const BACKING_SIZE = 1024 * 1024 + 512;

/** With holes, so that some of it is known to read as zeros. */
function backingFile(kind: 'raw' | 'qed'): MemoryHostFile {
  const bytes = new Uint8Array(BACKING_SIZE).map((_, i) => ((i >> 9) * 7 + i) & 0xff).fill(0, 300_000, 600_000);
  if (kind === 'raw') return new MemoryHostFile(bytes, '/base', true);
  const file = createMemoryImage(qed, BACKING_SIZE, { cluster_size: '4k', table_size: '2' });
  const image = openImage(qed, file);
  image.write(bytes, 0, 300_000, guestOffset(0));
  image.write(bytes, 600_000, BACKING_SIZE - 600_000, guestOffset(600_000));
  image.close();
  return new MemoryHostFile(file.bytes(), '/base', true);
}

const BACKING_FILES = { raw: backingFile('raw'), qed: backingFile('qed') };

function openBacking(kind: Subject['backing']): WritableImage | null {
  if (kind === 'none') return null;
  return openImage(kind === 'raw' ? raw : qed, BACKING_FILES[kind], { readOnly: true });
}

function runOperations(
  { format, options, backing: backingKind }: Subject,
  size: number,
  operations: readonly Operation[],
  judgeFolder: string | null,
): void {
  const backing = openBacking(backingKind);
  const file = createMemoryImage(
    format,
    size,
    options,
    backing === null ? undefined : join(judgeFolder ?? '/', backingKind),
  );
  // a cache of two slices evicts at every turn
  const open = (closedFacts?: ClosedFacts) => openImage(format, file, { backing, tableCacheBytes: 8192, closedFacts });
  let image = open();
  let model = Buffer.alloc(size);
  if (backing !== null) {
    const below = new Uint8Array(Math.min(size, backing.virtualSize()));
    backing.read(below, 0, below.length, guestOffset(0));
    model.set(below);
  }
  let now = steadyMs();
  let reopened = 0;
  for (const step of operations) {
    switch (step.kind) {
      case 'resize': {
        if (!format.can.resize || step.size < leastSize(format)) break;
        const resized = Buffer.alloc(step.size);
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
        // every second time with a walk
        image = open(reopened++ % 2 === 0 ? factsOf(image) : undefined);
        break;
      default: {
        if (model.length === 0) break;
        const at = step.at % model.length;
        const length = Math.min(step.length, model.length - at);
        if (step.kind === 'preallocate' || step.kind === 'copyUp') {
          image[step.kind](guestOffset(at), length);
          break;
        }
        model.fill(step.byte, at, at + length);
        if (step.kind === 'write') image.write(source.fill(step.byte, 0, length), 0, length, guestOffset(at));
        else if (step.kind === 'zero') image.writeZeroes(guestOffset(at), length);
        else image.discard(guestOffset(at), length);
      }
    }
    expectEqual(image, model);
  }
  image.close();
  expectClean(format, file);
  expectEqual(open(), model);
  if (judgeFolder !== null) judge(format.name, file, model, judgeFolder);
}

/** qemu-img finds nothing wrong and reads exactly these bytes. */
function judge(format: string, file: MemoryHostFile, model: Uint8Array, folder: string): void {
  const [image, wanted] = [join(folder, 'disk'), join(folder, 'wanted')];
  writeFileSync(image, file.bytes());
  writeFileSync(wanted, model);
  // QEMU has no check for these
  if (!['raw', 'vpc', 'qcow'].includes(format)) qemuCheck(image, format);
  qemuImg('compare', '-q', '-f', format, '-F', 'raw', image, wanted);
}

/** what is written to a disk */
const source = Buffer.alloc(BEYOND_A_TABLE);
/** what was read of a disk */
const scratch = Buffer.alloc(BEYOND_A_TABLE);

function expectEqual(image: WritableImage, model: Uint8Array): void {
  assert.equal(image.virtualSize(), model.length, 'bytes of the disk');
  const bytes = scratch.subarray(0, model.length).fill(0xee);
  image.read(bytes, 0, bytes.length, guestOffset(0));
  if (bytes.equals(model)) return;
  const at = bytes.findIndex((byte, i) => byte !== model[i]);
  assert.fail(`byte ${at} is ${bytes[at]} instead of ${model[at]}`);
}

function expectClean(format: WritableFormat, file: MemoryHostFile): void {
  if (format.check === undefined) return;
  const findings: string[] = [];
  const report = checkImage(format, file, { repair: 'none', log: (sentence) => findings.push(sentence) });
  assert.deepEqual(findings, []);
  assert.equal(report.leaks, 0);
  assert.equal(format.inspect(file).dirty, false);
}
