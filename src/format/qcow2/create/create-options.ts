// The options of qemu-img create -f qcow2. They are checked, also against each other, before a byte is written. Invariant:
// QEMU opens an image with any plan that passes.

import { bytesOfName } from '../../../bytes/names.ts';
import { isPowerOfTwo, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { LuksOptions } from '../../../codec/luks.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { refuseUnknownKeys } from '../../create-option.ts';
import type { BackingReference, CreateOptions } from '../../image-format.ts';
import { parseSize } from '../../size.ts';
import { COMPRESSION_TYPES, type CompressionType, MAX_BACKING_NAME } from '../header/header.ts';
import { MAX_BACKING_FORMAT_BYTES } from '../header/header-extension.ts';
import { parseEncryption } from './create-encryption.ts';
import { QCOW2_CREATE_HELP } from './create-help.ts';

const MIN_CLUSTER_SIZE = 512;
const MAX_CLUSTER_SIZE = 2 * 1024 * 1024;
/** 32 subclusters of at least 512 bytes */
const MIN_EXTENDED_CLUSTER_SIZE = 16384;

const PREALLOCATIONS = ['off', 'metadata', 'falloc', 'full'] as const;
type Preallocation = (typeof PREALLOCATIONS)[number];

/** The properties of a new image. */
export interface Qcow2Plan {
  readonly version: 2 | 3;
  /** virtual size in bytes, a multiple of 512 */
  readonly size: number;
  readonly clusterSize: number;
  readonly refcountBits: number;
  readonly lazyRefcounts: boolean;
  readonly extendedL2: boolean;
  readonly compressionType: CompressionType;
  readonly preallocation: Preallocation;
  readonly dataFileName: string | null;
  readonly dataFileRaw: boolean;
  readonly backing: BackingReference | null;
  readonly encryption: LuksOptions | null;
}

/** Options that exist in QEMU and are refused with a message of their own. */
const REFUSED_KEYS: readonly string[] = ['encryption', 'encrypt.key-secret'];

/** @throws ImgfuseError usage, unsupported: one sentence that names the option and its valid values */
export function planImage(create: CreateOptions): Qcow2Plan {
  const { options } = create;
  const asked = new Map([...options].filter(([key]) => !REFUSED_KEYS.includes(key)));
  refuseUnknownKeys('qcow2', QCOW2_CREATE_HELP, asked);
  const dataFileRaw = flag(options, 'data_file_raw');
  const preallocation = choice(options, 'preallocation', PREALLOCATIONS, 'off');
  const plan: Qcow2Plan = {
    version: parseCompat(options.get('compat') ?? '1.1'),
    // QEMU counts sectors
    size: roundUp(create.size, SECTOR_BYTES),
    clusterSize: parseSize(options.get('cluster_size') ?? '65536', 'cluster_size'),
    refcountBits: parseRefcountBits(options.get('refcount_bits') ?? '16'),
    lazyRefcounts: flag(options, 'lazy_refcounts'),
    extendedL2: flag(options, 'extended_l2'),
    compressionType: choice(options, 'compression_type', COMPRESSION_TYPES, 'zlib'),
    // a raw data file is the disk itself, so the tables must map all of it from the start
    preallocation: dataFileRaw && preallocation === 'off' ? 'metadata' : preallocation,
    dataFileName: options.get('data_file') ?? null,
    dataFileRaw,
    backing: parseBacking(create),
    encryption: parseEncryption(options),
  };
  checkGeometry(plan);
  checkVersion(plan);
  checkFiles(plan);
  checkEncryption(plan);
  return plan;
}

function parseCompat(text: string): 2 | 3 {
  if (text === '0.10' || text === 'v2') return 2;
  if (text === '1.1' || text === 'v3') return 3;
  throw usage(`compat=${text} is not valid; use 0.10 (or v2) or 1.1 (or v3)`);
}

function parseRefcountBits(text: string): number {
  const bits = /^\d{1,2}$/.test(text) ? Number(text) : 0;
  if (isPowerOfTwo(bits) && bits <= 64) return bits;
  throw usage(`refcount_bits=${text} is not valid; use 1, 2, 4, 8, 16, 32 or 64`);
}

function parseBacking({ options, backing }: CreateOptions): BackingReference | null {
  if (backing !== undefined) return backing;
  const name = options.get('backing_file');
  const format = options.get('backing_fmt');
  if (name !== undefined) return { name, ...(format === undefined ? {} : { format }) };
  if (format === undefined) return null;
  throw usage(`backing_fmt=${format} is given without backing_file`);
}

function checkGeometry({ clusterSize, extendedL2 }: Qcow2Plan): void {
  if (!isPowerOfTwo(clusterSize) || clusterSize < MIN_CLUSTER_SIZE || clusterSize > MAX_CLUSTER_SIZE) {
    throw usage(`cluster_size=${clusterSize} is not valid; use a power of two from 512 to 2M`);
  }
  if (extendedL2 && clusterSize < MIN_EXTENDED_CLUSTER_SIZE) {
    throw usage(`extended_l2=on needs cluster_size=16k or more, not ${clusterSize}`);
  }
}

function checkVersion(plan: Qcow2Plan): void {
  if (plan.version === 3) return;
  const newer: readonly (readonly [option: string, used: boolean])[] = [
    [`refcount_bits=${plan.refcountBits}`, plan.refcountBits !== 16],
    ['lazy_refcounts=on', plan.lazyRefcounts],
    ['extended_l2=on', plan.extendedL2],
    ['data_file', plan.dataFileName !== null],
    [`compression_type=${plan.compressionType}`, plan.compressionType !== 'zlib'],
  ];
  const first = newer.find(([, used]) => used);
  if (first !== undefined) throw usage(`${first[0]} needs compat=1.1 (v3); compat=0.10 images do not have it`);
}

function checkFiles({ backing, dataFileName, dataFileRaw, extendedL2, preallocation }: Qcow2Plan): void {
  if (dataFileRaw && dataFileName === null) throw usage('data_file_raw=on needs data_file=NAME');
  if (dataFileName !== null) checkName('data file', dataFileName, MAX_BACKING_NAME);
  if (backing === null) return;
  checkName('backing file', backing.name, MAX_BACKING_NAME);
  if (backing.format !== undefined) checkName('backing format', backing.format, MAX_BACKING_FORMAT_BYTES);
  if (dataFileRaw) throw usage('data_file_raw=on and a backing file exclude each other');
  if (preallocation !== 'off' && !extendedL2) {
    throw usage(`preallocation=${preallocation} would hide the backing file; add extended_l2=on`);
  }
}

/** Refuses preallocation without data: clusters that were never encrypted read as noise. */
function checkEncryption({ dataFileRaw, encryption, preallocation }: Qcow2Plan): void {
  if (encryption === null) return;
  if (dataFileRaw) throw usage('data_file_raw=on and encryption exclude each other: a raw data file is not encrypted');
  if (preallocation === 'off' || preallocation === 'full') return;
  throw usage(`preallocation=${preallocation} of an encrypted image would read as noise; use off or full`);
}

function checkName(what: string, name: string, limit: number): void {
  const bytes = bytesOfName(name);
  if (bytes.length === 0 || bytes.length > limit || bytes.includes(0)) {
    throw usage(`the ${what} name has ${bytes.length} bytes; it must have from 1 to ${limit} and no NUL`);
  }
}

function flag(options: ReadonlyMap<string, string>, key: string): boolean {
  const text = options.get(key) ?? 'off';
  if (['on', 'yes', 'true', 'y'].includes(text)) return true;
  if (['off', 'no', 'false', 'n'].includes(text)) return false;
  throw usage(`${key}=${text} is not valid; use on or off`);
}

function choice<T extends string>(
  options: ReadonlyMap<string, string>,
  key: string,
  values: readonly T[],
  byDefault: T,
): T {
  const text = options.get(key) ?? byDefault;
  const value = values.find((known) => known === text);
  if (value === undefined) throw usage(`${key}=${text} is not valid; use ${values.join(', ')}`);
  return value;
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
