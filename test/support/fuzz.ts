// Damaged images in a process of its own (fuzz-child.mjs), which is watched (fuzz-watch.ts).

import { closeSync, ftruncateSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bochsImage, MIXED_SECTORS } from './bochs-bytes.ts';
import { bundleImage } from './bundle-bytes.ts';
import { cloopImage } from './cloop-bytes.ts';
import { compileDouble } from './compiled-double.ts';
import { DMG_KINDS } from './dmg-bytes.ts';
import { KIB, makeSubjects, oneSubject, type Recipe, type Subject, setByte, WRITES } from './fuzz-subjects.ts';
import { makeVmdks } from './fuzz-vmdk.ts';
import { noFigures, type WatchFigures, watchMutants } from './fuzz-watch.ts';
import { asifImage, parallelsImage, sparseImage } from './piece-bytes.ts';
import { qemuImg, qemuIo } from './qemu.ts';
import { CREATE, DISCARDED, differencing, FREE, MODIFY, vdiBytes, vdiVersion0 } from './vdi-bytes.ts';
import { MIXED_SECTORS as VHD_SECTORS, vhdImage } from './vhd-bytes.ts';
import { mixedVhdx, unreplayedVhdx, vhdxImage } from './vhdx-bytes.ts';

const CHILD = fileURLToPath(new URL('./fuzz-child.mjs', import.meta.url));
/** A process that has taken thousands of sound images apart has grown to 260 MiB, and to 330 for a moment, and grows no further. */
const MAX_RSS_BYTES = 448 * 1024 * 1024;

const COMPRESSED = [0, 1, 2, 3, 9, 10].map((n) => `write -c -P ${n + 1} ${n * 4}k 4k`);
const snapshots = (path: string): void => {
  qemuImg('snapshot', '-c', 'first', path);
  qemuIo(path, 'qcow2', 'write -P 9 4k 30k', 'discard 60k 8k');
  qemuImg('snapshot', '-c', 'second', path);
  qemuIo(path, 'qcow2', 'write -P 8 0 6k');
};

const QCOW2: readonly Recipe[] = [
  { name: 'clusters of 512 bytes', options: 'cluster_size=512', size: 200 * KIB + 512, commands: WRITES },
  { name: '1-bit counts', options: 'cluster_size=512,refcount_bits=1', size: 200 * KIB, commands: WRITES },
  {
    name: '64-bit counts, snapshots',
    options: 'cluster_size=4k,refcount_bits=64',
    size: 300 * KIB,
    commands: WRITES,
    finish: snapshots,
  },
  {
    name: 'snapshots of version 2',
    options: 'cluster_size=512,compat=0.10',
    size: 200 * KIB,
    commands: WRITES,
    finish: snapshots,
  },
  {
    name: 'version 2 over a backing file',
    options: 'cluster_size=4k,compat=0.10',
    size: 256 * KIB,
    backing: true,
    commands: WRITES,
  },
  { name: 'zlib', options: 'cluster_size=4k', size: 200 * KIB, commands: [...COMPRESSED, 'write -P 77 150k 4k'] },
  {
    name: 'zstd',
    options: 'cluster_size=4k,compression_type=zstd',
    size: 200 * KIB,
    commands: [...COMPRESSED, 'write -P 77 150k 4k'],
  },
  {
    name: 'subclusters over a backing file, zstd',
    options: 'cluster_size=16k,extended_l2=on,compression_type=zstd',
    size: 512 * KIB,
    backing: true,
    commands: [
      'write -c -P 1 0 16k',
      'write -c -P 2 16k 16k',
      'write -P 3 50k 5k',
      'write -z 64k 3k',
      'write -zu 80k 32k',
      'write -P 4 300k 70k',
    ],
  },
  { name: 'a data file', options: 'cluster_size=64k,data_file=', size: 512 * KIB, commands: WRITES },
  {
    name: 'a raw data file',
    options: 'cluster_size=4k,data_file_raw=on,data_file=',
    size: 256 * KIB,
    commands: WRITES,
  },
  {
    name: 'luks',
    options: 'cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1',
    size: 256 * KIB,
    rarity: 96,
    commands: WRITES,
  },
  {
    name: 'aes',
    options: 'cluster_size=4k,encrypt.format=aes,encrypt.key-secret=s',
    size: 256 * KIB,
    commands: WRITES,
  },
  {
    name: 'bitmaps, lazy and dirty',
    options: 'cluster_size=4k,lazy_refcounts=on',
    size: 256 * KIB,
    commands: WRITES,
    finish: (path) => {
      qemuImg('bitmap', '--add', path, 'bits');
      setByte(path, 79, 1);
    },
  },
];

const QED: readonly Recipe[] = [
  {
    name: 'clusters of 4 KiB',
    options: 'cluster_size=4k,table_size=2',
    size: 4200 * KIB,
    rarity: 8,
    commands: [...WRITES, 'write -P 9 4100k 50k'],
  },
  {
    name: 'clusters of 4 KiB over a backing file',
    options: 'cluster_size=4k,table_size=2',
    size: 256 * KIB,
    backing: true,
    commands: WRITES,
  },
  { name: 'clusters of 64 KiB', options: 'cluster_size=64k,table_size=2', size: 640 * KIB, commands: WRITES },
  {
    name: 'not closed clean',
    options: 'cluster_size=4k,table_size=2',
    size: 300 * KIB,
    commands: WRITES,
    finish: (path) => setByte(path, 16, 2),
  },
];

/** Version 1; qemu-img makes clusters of 512 bytes over a backing file, else of 4 KiB. */
const QCOW: readonly Recipe[] = [
  { name: 'plain', options: '', size: 200 * KIB + 512, commands: WRITES },
  { name: 'over a backing file', options: '', size: 256 * KIB, backing: true, commands: WRITES },
  { name: 'compressed', options: '', size: 200 * KIB, commands: [...COMPRESSED, 'write -P 77 150k 4k'] },
  { name: 'aes', options: 'encrypt.format=aes,encrypt.key-secret=s', size: 256 * KIB, commands: WRITES },
];

const VDI_ENTRIES = [2, FREE, 0, DISCARDED, 1, FREE];
const onNothing = (): object => ({});
const onBase = (folder: string): { readonly backing: string } => {
  const backing = join(folder, 'below.raw');
  writeFileSync(backing, Buffer.alloc(22 * KIB, 'below'));
  return { backing };
};
const VDI: readonly (readonly [name: string, image: Buffer, below: (folder: string) => object])[] = [
  ['vdi, dynamic', vdiBytes({ entries: VDI_ENTRIES }), onNothing],
  ['vdi, static', vdiBytes({ entries: [0, 1, 2, 3], type: 2 }), onNothing],
  ['vdi, extra data, odd size', vdiBytes({ entries: VDI_ENTRIES, extra: 512, diskSize: 23 * KIB + 7 }), onNothing],
  [
    'vdi, not closed clean',
    vdiBytes({ entries: [3, 0, ...VDI_ENTRIES.map(() => FREE)], fileBlocks: 7, allocated: 6 }),
    onNothing,
  ],
  ['vdi, version 0', vdiVersion0({ entries: VDI_ENTRIES }), onNothing],
  ['vdi, differencing', differencing({ create: CREATE, modify: MODIFY }, { entries: VDI_ENTRIES }), onBase],
];

const QEMU_VHD: Recipe = {
  name: 'blocks of 2 MiB, made by QEMU',
  options: 'force_size=on',
  size: 5000 * KIB,
  rarity: 16,
  commands: [...WRITES, 'write -P 9 4100k 50k'],
};

/** What no other program makes so small: every kind, and every kind of block. */
function makeVhds(folder: string): Subject[] {
  const backing = join(folder, 'vhd-base.raw');
  writeFileSync(backing, Buffer.alloc(90 * KIB, 0xbb));
  const names = {
    parentName: 'base.raw',
    locators: [
      { code: 'W2ru', name: '.\\base.raw' },
      { code: 'W2ku', name: 'C:\\disks\\base.raw' },
    ],
  };
  const sectors = VHD_SECTORS;
  const make = (name: string, spec: Parameters<typeof vhdImage>[0]): Subject =>
    oneSubject('vpc', folder, vhdImage({ sectors, ...spec }).image, `vhd ${name}`);
  return [
    make('with partial bitmaps', {}),
    make('with full bitmaps', { fullBitmaps: true, maxTableEntries: 30 }),
    make('with a batmap', { creator: 'tap\0', batmap: sectors.map(() => false).slice(0, 26) }),
    make('with large blocks', { blockSize: 32 * KIB, gapSectors: 7 }),
    { ...make('with a raw parent', { type: 4, ...names }), backing },
    make('fixed', { type: 2 }),
    make('fixed with an old footer', { type: 2, footerBytes: 511 }),
    ...makeSubjects('vpc', [QEMU_VHD], folder),
  ];
}

/** Blocks of all states, with and without a log and a parent. */
function makeVhdxs(folder: string): Subject[] {
  const backing = join(folder, 'vhdx-base.raw');
  writeFileSync(backing, Buffer.alloc(5000 * KIB, 0xbb));
  const make = (name: string, image: Buffer): Subject => oneSubject('vhdx', folder, image, `vhdx ${name}`);
  const data = Buffer.alloc(1024 * KIB, 'data of a block');
  const blocks = [
    { state: 7, data, isHere: (sector: number) => sector % 9 < 4 },
    { state: 0 },
    { state: 6, data },
    { state: 2 },
    { state: 3 },
  ];
  const locator = {
    parent_linkage: '{00112233-4455-6677-8899-aabbccddeeff}',
    relative_path: '.\\base.vhdx',
    absolute_win32_path: 'C:\\base.vhdx',
  };
  return [
    make('dynamic', mixedVhdx().image),
    make('with a log to replay', unreplayedVhdx().image),
    { ...make('with a parent', vhdxImage({ blocks, locator }).image), backing },
    { ...make('with a parent and large sectors', vhdxImage({ blocks, locator, sectorBytes: 4096 }).image), backing },
    make('with large sectors', mixedVhdx({ sectorBytes: 4096, flags: 1 }).image),
  ];
}

/** The list alone is damaged. */
function makeBundle(folder: string): Subject[] {
  const { content, image } = bundleImage();
  const dataFile = join(folder, 'bands');
  writeFileSync(dataFile, content);
  return [{ ...oneSubject('sparsebundle', folder, image), dataFile }];
}

/** Makes valid images of every feature of a format in a folder. */
type MakeSubjects = (folder: string) => readonly Subject[];

/** The formats that are fuzzed: a new one has a row here, and one in fuzz-mutants.mjs. */
const SUBJECTS: Readonly<Record<string, MakeSubjects>> = {
  qcow2: (folder) => makeSubjects('qcow2', QCOW2, folder),
  qcow: (folder) => makeSubjects('qcow', QCOW, folder),
  qed: (folder) => makeSubjects('qed', QED, folder),
  vdi: (folder) => VDI.map(([name, image, below]) => ({ ...oneSubject('vdi', folder, image, name), ...below(folder) })),
  vmdk: makeVmdks,
  bochs: (folder) => [oneSubject('bochs', folder, bochsImage({ sectors: MIXED_SECTORS }).image)],
  cloop: (folder) => [oneSubject('cloop', folder, cloopImage().image)],
  parallels: (folder) => [
    oneSubject('parallels', folder, parallelsImage().image),
    oneSubject(
      'parallels',
      folder,
      parallelsImage({ magic: 'WithoutFreeSpace', clusterSectors: 63 }).image,
      'parallels 1',
    ),
  ],
  sparseimage: (folder) => [oneSubject('sparseimage', folder, sparseImage({ firstPlaces: 1008 }).image)],
  sparsebundle: makeBundle,
  asif: (folder) => [
    oneSubject('asif', folder, asifImage().image),
    oneSubject('asif', folder, asifImage({ partial: [0, 5] }).image, 'asif partial'),
  ],
  dmg: (folder) =>
    Object.entries(DMG_KINDS).map(([kind, make]) => oneSubject('dmg', folder, make().image, `dmg ${kind}`)),
  vpc: makeVhds,
  vhdx: makeVhdxs,
  raw: (folder) => [oneSubject('raw', folder, Buffer.alloc(100 * KIB, 'raw'))],
};

export const FUZZED_FORMATS: readonly string[] = Object.keys(SUBJECTS);

export interface FuzzFigures extends WatchFigures {
  /** equal ones are judged once */
  distinct: number;
  openedToRead: number;
  openedForWriting: number;
  /** had something wrong that one repair mended */
  repaired: number;
}

/** The size of the table of mutants that were judged (fuzz-known.mjs): half of its slots of 8 bytes stay empty at least. */
function tableBytes(mutants: number): number {
  return Math.min(256 * 1024 * KIB, 2 ** Math.ceil(Math.log2(Math.max(32, mutants * 2) * 8)));
}

/** Takes `mutants` damaged images of a format apart. @param first number of the first one, to run a single one again */
export async function fuzz(
  format: string,
  mutants: number,
  seed: number,
  folder: string,
  first = 0,
): Promise<FuzzFigures> {
  const subjects = SUBJECTS[format]!(folder);
  const figures: FuzzFigures = { ...noFigures(), distinct: 0, openedToRead: 0, openedForWriting: 0, repaired: 0 };
  const parameters = ['memory-file', 'wrapping-files', 'reused-memory'].map((name) => compileDouble(name, folder));
  const known = openSync(join(folder, 'known-mutants'), 'w+');
  const job = { subjects, maxRssBytes: MAX_RSS_BYTES, knownBytes: tableBytes(mutants) };
  try {
    ftruncateSync(known, job.knownBytes);
    const child = { path: CHILD, parameters, descriptors: [known] };
    await watchMutants(child, job, { seed, first, mutants }, folder, figures, (counts) => {
      figures.distinct += counts['distinct'] ?? 0;
      figures.openedToRead += counts['read'] ?? 0;
      figures.openedForWriting += counts['opened'] ?? 0;
      figures.repaired += counts['repaired'] ?? 0;
    });
  } finally {
    closeSync(known);
  }
  return figures;
}
