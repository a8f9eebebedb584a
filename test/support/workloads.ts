// Random workloads on small images, for the models that cut the power or fail host operations.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import { steadyMs } from '../../src/concurrency/clock.ts';
import { formats } from '../../src/disk/registry.ts';
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
import { createMemoryImage, openImage } from './memory-images.ts';
import { oldKindOfParallels, plainParallels } from './plain-parallels.ts';
import { qemuImg } from './qemu.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from './temporary.ts';

export const SECTOR = 512;
/** Two L2 tables of 512 clusters of 4 KiB, the second one hardly used. */
export const SIZE = 2 * 1024 * 1024 + 64 * 1024;
export const SECTORS = SIZE / SECTOR;

export type GuestStep =
  | {
      readonly kind: 'write' | 'discard' | 'zero' | 'preallocate' | 'copyUp';
      readonly at: number;
      readonly length: number;
      readonly value: number;
    }
  | { readonly kind: 'resize'; readonly size: number }
  | { readonly kind: 'flush' | 'maintain' | 'makeClean' };

/** Sizes that a workload gives the disk: the first sectors keep their content in all of them; small clusters move tables. */
const SIZES = [SIZE, SIZE + 64 * 1024, 32 * 1024 * 1024] as const;

export interface Subject {
  readonly name: string;
  readonly format: WritableFormat;
  readonly options: Readonly<Record<string, string>>;
  readonly withBacking: boolean;
  /** blocks are larger than what a workload discards, so that some of its discards are of a whole one */
  readonly blockBytes?: number;
  readonly withDataFile?: boolean;
  /** makes a new image instead of the format, of any number of files */
  readonly make?: (size: number, withBacking: boolean) => Pick<Prepared, 'start' | 'beside'>;
  /** of the whole disk, taken by QEMU before the workload: all clusters are shared then */
  readonly withSnapshot?: boolean;
  /** the workload finds compressed clusters */
  readonly isCompressed?: boolean;
  /** the whole disk is written before the workload */
  readonly isFull?: boolean;
  /** the backing file ends inside a cluster of the disk */
  readonly isShortBelow?: boolean;
  /** a crash may leave counters that are wrong, in an image that is marked dirty */
  readonly marksDirty?: boolean;
}

const SUBCLUSTERS = { cluster_size: '16k', extended_l2: 'on' };
const LAZY = { cluster_size: '4k', lazy_refcounts: 'on' };
const DATA_FILE = { cluster_size: '4k', data_file: '/data' };
const FLAT = { subformat: 'monolithicFlat' };
const BESIDE = { subformat: 'twoGbMaxExtentSparse', grain_size: '4k' };
const RAW_DATA_FILE = { ...DATA_FILE, data_file_raw: 'on' };

export const SUBJECTS: readonly Subject[] = [
  { name: 'raw', format: raw, options: {}, withBacking: false },
  ...[false, true].flatMap((withBacking) => {
    const suffix = withBacking ? ' with a backing file' : '';
    return [
      { name: `qed${suffix}`, format: qed, options: { cluster_size: '4k', table_size: '1' }, withBacking },
      { name: `vdi${suffix}`, format: vdi, options: { block_size: '4k' }, withBacking },
      { name: `qcow${suffix}`, format: qcow, options: {}, withBacking },
      { name: `vmdk${suffix}`, format: vmdk, options: { grain_size: '4k' }, withBacking },
      { name: `qcow2${suffix}`, format: qcow2, options: { cluster_size: '4k' }, withBacking },
      { name: `qcow2 version 2${suffix}`, format: qcow2, options: { cluster_size: '4k', compat: '0.10' }, withBacking },
      { name: `qcow2 with subclusters${suffix}`, format: qcow2, options: SUBCLUSTERS, withBacking },
      { name: `qcow2 with lazy refcounts${suffix}`, format: qcow2, options: LAZY, withBacking, marksDirty: true },
    ];
  }),
  { name: 'qcow2 with a data file', format: qcow2, options: DATA_FILE, withBacking: false, withDataFile: true },
  {
    name: 'qcow2 with a data file and a backing file',
    ...{ format: qcow2, options: DATA_FILE, withBacking: true, withDataFile: true },
  },
  { name: 'qcow2 with a raw data file', format: qcow2, options: RAW_DATA_FILE, withBacking: false, withDataFile: true },
  ...[{ cluster_size: '4k' }, SUBCLUSTERS].map((options) => ({
    name: `qcow2 with ${options === SUBCLUSTERS ? 'subclusters and ' : ''}a snapshot`,
    ...{ format: qcow2, options, withBacking: false, withSnapshot: true },
  })),
  {
    name: 'qcow2 with compressed clusters and a snapshot',
    ...{ format: qcow2, options: { cluster_size: '4k' }, withBacking: false, withSnapshot: true, isCompressed: true },
  },
  {
    // the refcount table is full when the workload begins
    name: 'qcow2 with wide counters, full, with a snapshot',
    ...{ format: qcow2, options: { cluster_size: '512', refcount_bits: '64' }, withBacking: false, withSnapshot: true },
    isFull: true,
  },
  { name: 'vpc, fixed', format: vpc, options: { subformat: 'fixed' }, withBacking: false },
  { name: 'vpc', format: vpc, options: { block_size: '4k' }, withBacking: false },
  { name: 'vpc with large blocks', format: vpc, options: { block_size: '64k' }, withBacking: false },
  { name: 'vpc with a backing file', format: vpc, options: { block_size: '4k' }, withBacking: true },
  {
    name: 'vpc with large blocks and a short backing file',
    ...{ format: vpc, options: { block_size: '16k' }, withBacking: true, isShortBelow: true },
  },
  {
    name: 'qed with large clusters and a short backing file',
    ...{ format: qed, options: { cluster_size: '16k', table_size: '2' }, withBacking: true, isShortBelow: true },
  },
  {
    name: 'qcow with a short backing file',
    ...{ format: qcow, options: {}, withBacking: true, isShortBelow: true },
  },
  {
    name: 'vmdk with zero grains and a short backing file',
    ...{ format: vmdk, options: { grain_size: '16k', zeroed_grain: 'on' }, withBacking: true, isShortBelow: true },
  },
  { name: 'vmdk, flat', format: vmdk, options: FLAT, withBacking: false, withDataFile: true },
  { name: 'vmdk, sparse beside its descriptor', format: vmdk, options: BESIDE, withBacking: false, withDataFile: true },
  {
    name: 'vmdk, sparse beside its descriptor, with a backing file',
    ...{ format: vmdk, options: BESIDE, withBacking: true, withDataFile: true },
  },
  { name: 'parallels', format: plainParallels, options: { cluster_size: '4k' }, withBacking: false },
  {
    name: 'parallels with large clusters',
    format: plainParallels,
    options: { cluster_size: '16k' },
    withBacking: false,
  },
  { name: 'parallels of the first kind', format: oldKindOfParallels, options: {}, withBacking: false },
  { name: 'vhdx', format: vhdx, options: { block_size: '1M' }, withBacking: false, blockBytes: 1024 * 1024 },
  {
    name: 'vhdx with a backing file',
    ...{ format: vhdx, options: { block_size: '1M' }, withBacking: true, blockBytes: 1024 * 1024 },
  },
  {
    name: 'vhdx with a short backing file',
    ...{
      format: vhdx,
      options: { block_size: '2M' },
      withBacking: true,
      isShortBelow: true,
      blockBytes: 2 * 1024 * 1024,
    },
  },
  { name: 'vhdx, fixed', format: vhdx, options: { block_size: '1M', subformat: 'fixed' }, withBacking: false },
  { name: 'vdi, static', format: vdi, options: { block_size: '4k', static: 'on' }, withBacking: false },
  {
    name: 'vdi with large blocks and a short backing file',
    ...{ format: vdi, options: { block_size: '16k' }, withBacking: true, isShortBelow: true },
  },
  {
    name: 'qcow2 with small clusters and a short backing file',
    ...{ format: qcow2, options: { cluster_size: '1k' }, withBacking: true, isShortBelow: true },
  },
];

/** The names of the formats that are written, in order: each has a subject in every model of their engines. */
export function writtenFormats(): string[] {
  return formats
    .filter(({ can }) => can.write)
    .map(({ name }) => name)
    .sort();
}

/** Sectors [first, end) that workloads and their images touch; all others stay as they are. */
export const AREAS = [
  { first: 0, end: 192 },
  { first: SECTORS - 192, end: SECTORS },
] as const;

/** Near the beginning and near the end of the disk. @param count of steps @param subject if it makes a difference */
export function randomSteps(random: () => number, count: number, subject?: Subject): GuestStep[] {
  const { blockBytes } = subject ?? {};
  const canResize = subject?.format.can.resize ?? true;
  const steps: GuestStep[] = [];
  for (let n = 0; n < count; n++) {
    const pick = random();
    const area = random() < 0.7 ? 0 : SECTORS - 170;
    const at = (area + Math.floor(random() * 120)) * SECTOR;
    const length = (1 + Math.floor(random() * 24)) * SECTOR;
    if (pick < 0.5) steps.push({ kind: 'write', at, length, value: 1 + (n % 90) });
    else if (pick < 0.58 && blockBytes !== undefined) steps.push(discardOfBlock(at, blockBytes));
    else if (pick < 0.65) steps.push({ kind: 'discard', at, length: length * 2, value: 0 });
    else if (pick < 0.7) steps.push({ kind: 'zero', at, length, value: 0 });
    else if (pick < 0.75) steps.push({ kind: 'preallocate', at: at + 100, length, value: 0 });
    else if (pick < 0.79) steps.push({ kind: 'copyUp', at, length, value: 0 });
    else if (pick < 0.94) steps.push({ kind: 'flush' });
    else if (pick < 0.97 && canResize)
      steps.push({ kind: 'resize', size: SIZES[Math.floor(random() * SIZES.length)]! });
    else steps.push({ kind: random() < 0.5 ? 'maintain' : 'makeClean' });
  }
  return steps;
}

function discardOfBlock(at: number, blockBytes: number): GuestStep {
  const start = at - (at % blockBytes);
  return { kind: 'discard', at: start, length: Math.min(blockBytes, SIZE - start), value: 0 };
}

/** An image before its workload, closed clean; `content` has the value of each of its sectors. */
export interface Prepared {
  readonly start: MemoryHostFile;
  /** the other files of the image: a data file, extents */
  readonly beside: readonly MemoryHostFile[];
  /** the data file is the disk itself */
  readonly isRaw: boolean;
  /** absent: the workload opens the image with a walk */
  readonly closedFacts?: ClosedFacts | undefined;
  readonly backing: WritableImage | null;
  readonly content: Uint8Array;
  /** what a snapshot has, which stays as it is */
  readonly snapshot: Uint8Array | null;
}

/** An image with some data, over nothing or over a file full of data; a data file that is not raw is full of old bytes. */
export function prepare(subject: Subject, random: () => number): Prepared {
  const { format, options, withBacking, withSnapshot, isCompressed, isFull, isShortBelow } = subject;
  const content = new Uint8Array(SECTORS);
  let backing: WritableImage | null = null;
  if (withBacking) {
    const end = SECTORS - 101;
    content.fill(200, 0, end);
    backing = openBase(new Uint8Array(isShortBelow === true ? end * SECTOR : SIZE).map((_, i) => content[i >> 9]!));
  }
  const { start, beside } = subject.make?.(SIZE, withBacking) ?? create(subject);
  const isRaw = options['data_file_raw'] === 'on' || options === FLAT;
  if (format === qcow2 && !isRaw) beside[0]?.write(new Uint8Array(SIZE).fill(0xaa), 0, SIZE, hostOffset(0));
  const image = openImage(format, start, { backing, beside });
  if (isFull === true) {
    image.write(new Uint8Array(SIZE).fill(150), 0, SIZE, guestOffset(0));
    content.fill(150);
  }
  for (let n = 0; n < 6; n++) {
    const sector = Math.floor(random() * 100);
    image.write(new Uint8Array(4096).fill(100 + n), 0, 4096, guestOffset(sector * SECTOR));
    content.fill(100 + n, sector, sector + 8);
  }
  image.close();
  const common = { beside, isRaw, backing, content };
  const closedFacts = random() < 0.5 ? factsOf(image) : undefined;
  if (withSnapshot !== true) return { start, ...common, snapshot: null, closedFacts };
  return { start: takeSnapshot(start, options, isCompressed === true), ...common, snapshot: content.slice() };
}

function create({ format, options, withBacking, withDataFile }: Subject): Pick<Prepared, 'start' | 'beside'> {
  const dataFile = withDataFile === true ? new MemoryHostFile(new Uint8Array(0), '/data') : null;
  const data = dataFile === null ? {} : { dataFile };
  const start = createMemoryImage(format, SIZE, options, withBacking ? '/base' : undefined, data);
  return { start, beside: dataFile === null ? [] : [dataFile] };
}

function takeSnapshot(
  file: MemoryHostFile,
  options: Readonly<Record<string, string>>,
  isCompressed: boolean,
): MemoryHostFile {
  const folder = makeTemporaryDirectory();
  try {
    const [image, compressed] = [join(folder, 'image'), join(folder, 'compressed')];
    writeFileSync(image, file.bytes());
    const o = Object.entries(options).map(([name, value]) => `${name}=${value}`);
    if (isCompressed) qemuImg('convert', '-c', '-O', 'qcow2', '-o', o.join(','), image, compressed);
    const path = isCompressed ? compressed : image;
    qemuImg('snapshot', '-c', 'before', path);
    return new MemoryHostFile(readFileSync(path));
  } finally {
    removeTemporaryDirectory(folder);
  }
}

function openBase(bytes: Uint8Array): WritableImage {
  const file = createMemoryImage(qed, bytes.length, { cluster_size: '4k', table_size: '1' });
  const image = openImage(qed, file);
  image.write(bytes, 0, bytes.length, guestOffset(0));
  image.close();
  return openImage(qed, new MemoryHostFile(file.bytes(), '/base', true), { readOnly: true });
}

export function runStep(image: WritableImage, step: GuestStep): void {
  switch (step.kind) {
    case 'write':
      image.write(new Uint8Array(step.length).fill(step.value), 0, step.length, guestOffset(step.at));
      break;
    case 'discard':
      image.discard(guestOffset(step.at), step.length);
      break;
    case 'zero':
      image.writeZeroes(guestOffset(step.at), step.length);
      break;
    case 'copyUp':
      image.copyUp(guestOffset(step.at), step.length);
      break;
    case 'preallocate':
      image.preallocate(guestOffset(step.at), step.length);
      break;
    case 'resize':
      image.resize(step.size);
      break;
    case 'flush':
      image.flush();
      break;
    case 'maintain':
      image.maintain(steadyMs() + 600);
      break;
    case 'makeClean':
      image.makeClean();
  }
}
