// A new VMDK image, with the options of qemu-img. The extents come first and the descriptor last, so that a descriptor never names an
// extent that is not whole.

import { basename } from 'node:path';
import { bytesOfName } from '../../bytes/names.ts';
import { hostOffset, isPowerOfTwo, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { refuseUnknownKeys } from '../create-option.ts';
import type { CreateOptions } from '../image-format.ts';
import { parseSize } from '../size.ts';
import { ADAPTERS, SUBFORMATS, VMDK_CREATE_HELP } from './create-help.ts';
import { MAX_CYLINDERS, randomCid } from './descriptor/edit.ts';
import { type ExtentLine, MAX_EXTENTS } from './descriptor/parse.ts';
import { createdKind } from './kinds.ts';
import { parentWords } from './parent.ts';
import { GRAIN_BYTES } from './sparse/create.ts';

type Subformat = (typeof SUBFORMATS)[number];
const MIN_GRAIN_BYTES = 4096;
const MAX_GRAIN_BYTES = 2 ** 30;
const TWO_GIB = 2 ** 31;
/** Room for a descriptor inside an extent, as QEMU leaves it. */
const EMBEDDED_BYTES = 20 * SECTOR_BYTES;

interface Plan {
  /** bytes of the disk, whole sectors */
  readonly size: number;
  readonly subformat: Subformat;
  readonly adapter: (typeof ADAPTERS)[number];
  readonly hardware: string;
  readonly tools: string;
  readonly grainBytes: number;
  readonly zeroedGrain: boolean;
  readonly parentCid: string;
  readonly parentHint: string | null;
}

/** The size is rounded up to a multiple of 512 bytes. */
export function createVmdk(file: HostFile, options: CreateOptions): void {
  const plan = planOf(options);
  const name = basename(file.path).replace(/\.vmdk$/i, '');
  const extents = extentsOf(plan, name, basename(file.path));
  const descriptor = descriptorOf(plan, extents);
  if (plan.subformat === 'monolithicSparse') {
    if (bytesOfName(descriptor).length > EMBEDDED_BYTES) throw usage('the name of the backing file is too long');
    writeSparse(file, plan.size, descriptor, plan);
    return;
  }
  const { createExtent } = options;
  if (createExtent === undefined) throw usage(`${plan.subformat} needs other files, which cannot be made here`);
  for (const { length, name: extent, type } of extents) {
    const made = createExtent(extent!, 'extent');
    if (type === 'SPARSE') {
      writeSparse(made, length, null, plan);
      continue;
    }
    made.truncate(length);
    made.sync();
  }
  const bytes = bytesOfName(descriptor);
  file.write(bytes, 0, bytes.length, hostOffset(0));
  file.sync();
}

function writeSparse(
  file: HostFile,
  capacity: number,
  descriptor: string | null,
  { grainBytes, zeroedGrain }: Plan,
): void {
  const descriptorBytes = descriptor === null ? 0 : EMBEDDED_BYTES;
  createdKind().create(file, { capacity, descriptor, descriptorBytes, grainBytes, zeroedGrain });
}

function planOf({ backing, options, parent, size }: CreateOptions): Plan {
  refuseUnknownKeys('vmdk', VMDK_CREATE_HELP, options);
  if (options.get('subformat') === 'streamOptimized') {
    throw usage(
      'a streamOptimized image is never changed, so an empty one is not made; copy a disk into one with qemu-img convert -O vmdk -o ' +
        'subformat=streamOptimized',
    );
  }
  const subformat = choice(options, 'subformat', SUBFORMATS);
  const zeroedGrain = isOn(options, 'zeroed_grain');
  const isCompat6 = isOn(options, 'compat6');
  const hardware = options.get('hwversion') ?? (isCompat6 ? '6' : '4');
  if (isCompat6 && options.has('hwversion')) throw usage('compat6 is hwversion=6; leave out one of the two');
  const tools = options.get('toolsversion') ?? '2147483647';
  for (const [key, value] of [
    ['hwversion', hardware],
    ['toolsversion', tools],
  ] as const) {
    if (!/^\d{1,10}$/.test(value)) throw usage(`${key}=${value} is not valid; use a whole number`);
  }
  const isFlat = subformat.endsWith('Flat');
  if (isFlat && backing !== undefined) throw usage(`a ${subformat} image cannot have a backing file`);
  if (isFlat && zeroedGrain) throw usage(`a ${subformat} image has no grains; leave out zeroed_grain`);
  return {
    grainBytes: grainOption(options, isFlat),
    ...{ subformat, zeroedGrain, hardware, tools, adapter: choice(options, 'adapter_type', ADAPTERS) },
    size: Math.max(SECTOR_BYTES, roundUp(size, SECTOR_BYTES)),
    parentCid: parentWords(backing ?? null, parent).cid,
    parentHint: backing?.name ?? null,
  };
}

function extentsOf({ size, subformat }: Plan, name: string, own: string): ExtentLine[] {
  const isFlat = subformat.endsWith('Flat');
  const type = isFlat ? 'FLAT' : 'SPARSE';
  const lineOf = (length: number, file: string): ExtentLine => {
    if (/["\n\r]/.test(file)) throw usage(`the name ${JSON.stringify(file)} cannot stand in a VMDK descriptor`);
    return { access: 'RW', length, type, name: file, offset: 0 };
  };
  if (subformat === 'monolithicSparse') return [lineOf(size, own)];
  if (subformat === 'monolithicFlat') return [lineOf(size, `${name}-flat.vmdk`)];
  const most = MAX_EXTENTS * TWO_GIB;
  if (size > most)
    throw usage(`a ${subformat} image holds at most ${most} bytes, not ${size}: it has ${MAX_EXTENTS} extents at most`);
  return Array.from({ length: Math.ceil(size / TWO_GIB) }, (_, i) => {
    const number = String(i + 1).padStart(3, '0');
    return lineOf(Math.min(TWO_GIB, size - i * TWO_GIB), `${name}-${isFlat ? 'f' : 's'}${number}.vmdk`);
  });
}

function descriptorOf(plan: Plan, extents: readonly ExtentLine[]): string {
  const { adapter, hardware, parentCid, parentHint, size, subformat, tools } = plan;
  const heads = adapter === 'ide' ? 16 : 255;
  const cylinders = Math.min(MAX_CYLINDERS, Math.floor(size / SECTOR_BYTES / (63 * heads)));
  return [
    '# Disk DescriptorFile',
    'version=1',
    `CID=${randomCid()}`,
    `parentCID=${parentCid}`,
    `createType="${subformat}"`,
    ...(parentHint === null ? [] : [`parentFileNameHint="${parentHint}"`]),
    '',
    '# Extent description',
    ...extents.map(({ length, name, type }) => {
      return `RW ${length / SECTOR_BYTES} ${type} "${name}"${type === 'FLAT' ? ' 0' : ''}`;
    }),
    '',
    '# The Disk Data Base',
    '#DDB',
    '',
    `ddb.virtualHWVersion = "${hardware}"`,
    `ddb.geometry.cylinders = "${cylinders}"`,
    `ddb.geometry.heads = "${heads}"`,
    'ddb.geometry.sectors = "63"',
    `ddb.adapterType = "${adapter}"`,
    `ddb.toolsVersion = "${tools}"`,
    '',
  ].join('\n');
}

function choice<Value extends string>(
  options: ReadonlyMap<string, string>,
  key: string,
  values: readonly [Value, ...Value[]],
): Value {
  const text = options.get(key) ?? values[0];
  const found = values.find((each) => each === text);
  if (found !== undefined) return found;
  throw usage(`${key}=${text} is not valid; use ${values.join(', ')}`);
}

function grainOption(options: ReadonlyMap<string, string>, isFlat: boolean): number {
  const text = options.get('grain_size');
  if (text === undefined) return GRAIN_BYTES;
  if (isFlat) throw usage('a flat image has no grains; leave out grain_size');
  const size = parseSize(text, 'grain_size');
  if (isPowerOfTwo(size) && size >= MIN_GRAIN_BYTES && size <= MAX_GRAIN_BYTES) return size;
  throw usage(`grain_size=${text} is not valid; use a power of two from 4k to 1G`);
}

function isOn(options: ReadonlyMap<string, string>, key: string): boolean {
  return choice(options, key, ['off', 'on']) === 'on';
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
