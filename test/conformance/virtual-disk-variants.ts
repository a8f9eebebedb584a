// The formats and their variants that the VirtualDisk suite runs for; a new format adds its rows here, to the first list if its
// images can be written (and to TRAITS if they hold links back or have a dirty bit), to the second if they are only read. A file
// virtual-disk-GROUP.test.ts has the formats of one group, so that several processors share the work.

import { guestOffset } from '../../src/bytes/offsets.ts';
import { asif } from '../../src/format/asif/index.ts';
import { bochs } from '../../src/format/bochs/index.ts';
import { cloop } from '../../src/format/cloop/index.ts';
import { dmg } from '../../src/format/dmg/index.ts';
import type { WritableFormat, WritableImage } from '../../src/format/image-format.ts';
import { qcow } from '../../src/format/qcow/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import { sparsebundle } from '../../src/format/sparsebundle/index.ts';
import { sparseimage } from '../../src/format/sparseimage/index.ts';
import { vdi } from '../../src/format/vdi/index.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { vmdk } from '../../src/format/vmdk/index.ts';
import { vpc } from '../../src/format/vpc/index.ts';
import { bochsImage, MIXED_SECTORS } from '../support/bochs-bytes.ts';
import { bundleImage } from '../support/bundle-bytes.ts';
import { cloopImage } from '../support/cloop-bytes.ts';
import { dmgImage } from '../support/dmg-bytes.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import { asifImage, sparseImage } from '../support/piece-bytes.ts';
import { oldParallels, plainParallels, setsInUse } from '../support/plain-parallels.ts';
import { MIB, mixedVhdx, unreplayedVhdx, type VhdxImage } from '../support/vhdx-bytes.ts';
import { vhdxContent } from '../support/vhdx-judge.ts';
import { seSparseImage, streamImage, trackedImage } from '../support/vmdk-images.ts';
import { describeReadableDisk, type ReadVariant } from './readable-disk.ts';
import { type DiskVariant, describeVirtualDisk } from './virtual-disk.ts';

/** Data with holes; the length is not a multiple of a cluster. */
function backingBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = 1 + ((i * 13 + (i >> 10)) % 250);
  bytes.fill(0, 300_000, 400_000);
  bytes.fill(0, 2_000_000, 2_090_000);
  return bytes;
}

/** The files of backing images are made once; each test has a clone, which shares their pages until one of the two is written to. */
const rawBase = (bytes: Uint8Array): (() => WritableImage) => {
  const file = new MemoryHostFile(bytes, '/base');
  return () => openImage(raw, file.clone());
};

function qedBase(bytes: Uint8Array): () => WritableImage {
  const file = createMemoryImage(qed, bytes.length, { cluster_size: '4k', table_size: '1' });
  const image = openImage(qed, file);
  for (const [start, end] of [
    [0, 300_000],
    [400_000, 2_000_000],
    [2_090_000, bytes.length],
  ] as const) {
    image.write(bytes, start, end - start, guestOffset(start));
  }
  image.close();
  return () => openImage(qed, file.clone());
}

const BACKINGS: Readonly<Record<string, (() => WritableImage) | null>> = {
  'no backing file': null,
  'a shorter raw backing file': rawBase(backingBytes(1_000_960)),
  'a longer raw backing file': rawBase(backingBytes(3_000_832)),
  'a QED backing file': qedBase(backingBytes(2_400_256)),
};

/** What the images of a format do in their own way. */
const TRAITS: Readonly<Record<string, Pick<DiskVariant, 'holdsLinksBack' | 'setsDirtyBit'>>> = {
  qcow: { holdsLinksBack: true },
  qcow2: { holdsLinksBack: true },
  vpc: { holdsLinksBack: true },
  vmdk: { setsDirtyBit: (offset, data) => offset === 72 && data.length === 1 && data[0] === 1 },
  parallels: { setsDirtyBit: setsInUse },
  qed: { setsDirtyBit: (offset, data) => offset === 16 && (data[0]! & 2) !== 0 },
};

function variant(format: WritableFormat, options: Readonly<Record<string, string>>, backingName: string): DiskVariant {
  const makeBacking = BACKINGS[backingName] ?? null;
  const shown = Object.values(options).join('/');
  const templates = new Map<number, { file: MemoryHostFile; initial: Uint8Array }>();
  return {
    name: `${format.name}${shown === '' ? '' : ` ${shown}`} with ${backingName}`,
    format,
    create: (size) => {
      const backing = makeBacking?.() ?? null;
      let template = templates.get(size);
      if (template === undefined) {
        const initial = new Uint8Array(size);
        backing?.read(initial, 0, Math.min(size, backing.virtualSize()), guestOffset(0));
        const file = createMemoryImage(format, size, options, backing === null ? undefined : '/base');
        template = { file, initial };
        templates.set(size, template);
      }
      return { file: template.file.clone(), backing, initial: template.initial.slice() };
    },
    ...TRAITS[format.name],
  };
}

/** An image with its data in a file of its own, or encrypted, or both. */
function apart(
  name: string,
  options: Readonly<Record<string, string>>,
  withDataFile: boolean,
  format: WritableFormat = qcow2,
): DiskVariant {
  const password = options['encrypt.format'] === undefined ? undefined : 'geheim';
  const templates = new Map<number, { file: MemoryHostFile; dataFile: MemoryHostFile }>();
  return {
    name: `${format.name} ${name}`,
    format,
    create: (size) => {
      let template = templates.get(size);
      if (template === undefined) {
        const dataFile = new MemoryHostFile(new Uint8Array(0), '/data');
        template = { file: createMemoryImage(format, size, options, undefined, { dataFile, password }), dataFile };
        templates.set(size, template);
      }
      return {
        file: template.file.clone(),
        ...(withDataFile ? { dataFile: template.dataFile.clone() } : {}),
        backing: null,
        initial: new Uint8Array(size),
      };
    },
    ...(format === qcow2 ? TRAITS[format.name] : {}),
    ...(password === undefined ? {} : { password }),
  };
}

const LUKS = { 'encrypt.format': 'luks', 'encrypt.iter-time': '10' };
const EXTENDED = { cluster_size: '16k', extended_l2: 'on' };

export const variants: readonly DiskVariant[] = [
  variant(raw, {}, 'no backing file'),
  ...Object.keys(BACKINGS).map((backing) => variant(qed, { cluster_size: '4k', table_size: '1' }, backing)),
  variant(qed, { cluster_size: '4k', table_size: '2' }, 'no backing file'),
  variant(qed, { cluster_size: '64k', table_size: '4' }, 'no backing file'),
  variant(qed, { cluster_size: '64k', table_size: '4' }, 'a QED backing file'),
  variant(qed, { cluster_size: '1M', table_size: '1' }, 'a shorter raw backing file'),
  ...Object.keys(BACKINGS).map((backing) => variant(qcow2, { cluster_size: '4k' }, backing)),
  variant(qcow2, { cluster_size: '4k', compat: '0.10' }, 'a QED backing file'),
  variant(qcow2, {}, 'no backing file'),
  variant(qcow2, { cluster_size: '16k', extended_l2: 'on' }, 'no backing file'),
  variant(qcow2, { cluster_size: '64k', extended_l2: 'on' }, 'a QED backing file'),
  ...Object.keys(BACKINGS).map((backing) => variant(vdi, { block_size: '4k' }, backing)),
  // clusters of 512 bytes make many host operations over a backing file, and each of them fails once
  ...['no backing file', 'a shorter raw backing file'].map((backing) => variant(qcow, {}, backing)),
  { ...variant(qcow, { 'encrypt.format': 'aes' }, 'no backing file'), password: 'geheim' },
  variant(vdi, {}, 'no backing file'),
  variant(vdi, { block_size: '64k' }, 'a shorter raw backing file'),
  variant(vdi, { block_size: '64k', static: 'on' }, 'no backing file'),
  variant(vpc, { subformat: 'fixed' }, 'no backing file'),
  // the longer ones take long: blocks of 4 KiB make many host operations, and each of them fails once
  ...['no backing file', 'a QED backing file', 'a shorter raw backing file'].map((backing) =>
    variant(vpc, { block_size: '4k' }, backing),
  ),
  variant(vpc, {}, 'no backing file'),
  variant(vpc, { block_size: '64k' }, 'a QED backing file'),
  // without zero grains a discard over a backing file writes zeros, and each of those writes fails once
  ...['no backing file', 'a shorter raw backing file'].map((backing) => variant(vmdk, { grain_size: '4k' }, backing)),
  variant(vmdk, { grain_size: '4k', zeroed_grain: 'on' }, 'a QED backing file'),
  variant(vmdk, {}, 'no backing file'),
  variant(plainParallels, { cluster_size: '4k' }, 'no backing file'),
  variant(plainParallels, {}, 'no backing file'),
  {
    name: 'parallels of the first kind with clusters of 63 sectors, written',
    format: plainParallels,
    create: (size) => ({ file: oldParallels(size), backing: null, initial: new Uint8Array(size) }),
    setsDirtyBit: setsInUse,
  },
  variant(vhdx, { block_size: '1M' }, 'no backing file'),
  ...Object.keys(BACKINGS)
    .slice(1)
    .map((backing) => variant(vhdx, { block_size: '1M' }, backing)),
  variant(vhdx, { block_size: '2M', subformat: 'fixed' }, 'no backing file'),
  variant(vhdx, { block_size: '1M', block_state_zero: 'off' }, 'no backing file'),
  apart('with a flat extent', { subformat: 'monolithicFlat' }, true, vmdk),
  apart('with a sparse extent', { subformat: 'twoGbMaxExtentSparse', grain_size: '4k' }, true, vmdk),
  apart('4k with a data file', { cluster_size: '4k', data_file: 'data' }, true),
  apart('4k with a raw data file', { cluster_size: '4k', data_file: 'data', data_file_raw: 'on' }, true),
  apart('16k with subclusters and a data file', { ...EXTENDED, data_file: 'data' }, true),
  apart('16k with subclusters and a raw data file', { ...EXTENDED, data_file: 'data', data_file_raw: 'on' }, true),
  apart('4k with LUKS', { cluster_size: '4k', ...LUKS }, false),
  apart('16k with subclusters and LUKS', { ...EXTENDED, ...LUKS }, false),
  apart('64k with LUKS and a data file', { data_file: 'data', ...LUKS }, true),
];

function vhdxVariant(name: string, make: () => VhdxImage): ReadVariant {
  return {
    ...{ name, format: vhdx },
    create: () => {
      const { image } = make();
      return { image, content: vhdxContent(image) };
    },
  };
}

/** Formats that are only read, and images that are made by hand. */
export const readVariants: readonly ReadVariant[] = [
  { name: 'bochs', format: bochs, create: () => bochsImage({ sectors: MIXED_SECTORS }) },
  {
    name: 'bochs of version 1 with large extents',
    format: bochs,
    create: () => bochsImage({ sectors: MIXED_SECTORS, version: 0x10000, extentBytes: 65_536 }),
  },
  { name: 'cloop', format: cloop, isCompressed: true, create: () => cloopImage() },
  {
    name: 'cloop with large blocks',
    format: cloop,
    isCompressed: true,
    create: () => cloopImage({ blockSize: 65_536, gap: 77 }),
  },
  { name: 'dmg', format: dmg, isCompressed: true, create: () => dmgImage({ gap: 9 }) },
  { name: 'sparseimage', format: sparseimage, create: () => sparseImage() },
  { name: 'sparseimage of one list', format: sparseimage, create: () => sparseImage({ firstPlaces: 1008 }) },
  { name: 'sparsebundle', format: sparsebundle, create: () => bundleImage() },
  { name: 'asif', format: asif, create: () => asifImage() },
  { name: 'asif with partial chunks', format: asif, create: () => asifImage({ partial: [0, 5, 8] }) },
  {
    name: 'dmg with a resource fork',
    format: dmg,
    isCompressed: true,
    create: () => dmgImage({ fork: true }),
  },
  vhdxVariant('vhdx', () => mixedVhdx()),
  vhdxVariant('vhdx with blocks of 2 MiB and sectors of 4096 bytes', () =>
    mixedVhdx({ blockBytes: 2 * MIB, sectorBytes: 4096 }),
  ),
  { ...vhdxVariant('vhdx with a log to replay', unreplayedVhdx), showsPlaces: false },
  { name: 'vmdk, streamOptimized', format: vmdk, isCompressed: true, create: () => streamImage() },
  {
    name: 'vmdk, streamOptimized without a footer, markers and zlib',
    format: vmdk,
    isCompressed: true,
    create: () => streamImage({ footer: false, markers: false, raw: true, padding: 3 }),
  },
  { name: 'vmdk, SESparse', format: vmdk, create: seSparseImage },
  { name: 'vmdk with changed block tracking', format: vmdk, create: trackedImage },
];

/** Those that take each way through a copy: pieces of clusters, many clusters, holes below, subclusters, no zero clusters. */
export const WITH_FACTS = [
  'qed 4k/1 with no backing file',
  'qed 4k/1 with a QED backing file',
  'qcow2 4k with no backing file',
  'vdi 4k with no backing file',
  'qcow with no backing file',
  'vmdk 4k with no backing file',
  'parallels 4k with no backing file',
  'qcow2 64k/on with a QED backing file',
  'vhdx 1M with no backing file',
  'vhdx 1M with a QED backing file',
];

export const COPY_ON_READ = [
  'vpc 64k with a QED backing file',
  'vpc 4k with a shorter raw backing file',
  'qed 4k/1 with a QED backing file',
  'qed 1M/1 with a shorter raw backing file',
  'qcow2 4k with a shorter raw backing file',
  'vdi 4k with a QED backing file',
  'qcow with a shorter raw backing file',
  'vmdk 4k/on with a QED backing file',
  'vhdx 1M with a shorter raw backing file',
  'qcow2 4k/0.10 with a QED backing file',
  'qcow2 64k/on with a QED backing file',
];

/** Which formats each file has. */
export const GROUPS = {
  'raw-and-qed': ['raw', 'qed'],
  qcow2: ['qcow2'],
  virtualbox: ['vdi', 'qcow', 'parallels', 'vhdx'],
  others: ['vpc', 'vmdk', 'bochs', 'cloop', 'dmg', 'sparseimage', 'sparsebundle', 'asif'],
} as const;

/** The tests of a file. */
export function testGroup(group: keyof typeof GROUPS): void {
  const names: readonly string[] = GROUPS[group];
  for (const each of variants.filter(({ format }) => names.includes(format.name))) {
    describeVirtualDisk(each);
    const { name } = each;
    if (WITH_FACTS.includes(name))
      describeVirtualDisk({ ...each, name: `${name}, without a walk`, opensWithFacts: true });
    if (COPY_ON_READ.includes(name))
      describeVirtualDisk({ ...each, name: `${name} and copy-on-read`, copyOnRead: true });
  }
  for (const each of readVariants.filter(({ format }) => names.includes(format.name))) describeReadableDisk(each);
}
