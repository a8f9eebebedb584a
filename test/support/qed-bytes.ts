// A naive writer of QED images for tests, independent of src/format/qed: every field as a BigInt at the place where the
// specification has it, so that each can be set to something that cannot be true.

import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';

const HEADER_FIELDS = {
  magic: [0, 4],
  clusterSize: [4, 4],
  tableSize: [8, 4],
  headerSize: [12, 4],
  features: [16, 8],
  compatFeatures: [24, 8],
  autoclearFeatures: [32, 8],
  l1TableOffset: [40, 8],
  imageSize: [48, 8],
  backingOffset: [56, 4],
  backingSize: [60, 4],
} as const;

export type QedField = keyof typeof HEADER_FIELDS;

export const BACKING_FILE = 1n;
export const NEED_CHECK = 2n;
export const NO_PROBE = 4n;

/** Where the pieces of the default image lie: clusters of 4 KiB, tables of one cluster. */
export const CLUSTER = 4096;
export const L1 = 4096;
export const L2 = 8192;
export const FIRST_DATA = 12288;
export const SECOND_DATA = 16384;
export const FILE_BYTES = 20480;

export interface QedSpec {
  /** header fields that differ from those of the default image */
  readonly fields?: Readonly<Partial<Record<QedField, bigint>>>;
  /** u64 values by their offset in the file, beyond the default ones: L1[0], L2[0] and L2[1] */
  readonly entries?: Readonly<Record<number, bigint>>;
  /** bytes at an offset */
  readonly bytes?: Readonly<Record<number, Uint8Array>>;
  /** sets the backing file name at offset 64, its two header fields and the feature bits */
  readonly backing?: string;
  /** the backing file is raw (BACKING_FORMAT_NO_PROBE) */
  readonly backingIsRaw?: boolean;
  /** length of the file; absent: five clusters */
  readonly length?: number;
  /** none of the default entries and data */
  readonly empty?: boolean;
}

/** What there is to write, by offset. */
function pieces(spec: QedSpec): Map<number, Uint8Array> {
  const name = Buffer.from(spec.backing ?? '');
  const header: Record<QedField, bigint> = {
    magic: 0x00444551n,
    clusterSize: BigInt(CLUSTER),
    tableSize: 1n,
    headerSize: 1n,
    features: spec.backing === undefined ? 0n : BACKING_FILE | (spec.backingIsRaw === true ? NO_PROBE : 0n),
    compatFeatures: 0n,
    autoclearFeatures: 0n,
    l1TableOffset: BigInt(L1),
    imageSize: 1024n * 1024n,
    backingOffset: spec.backing === undefined ? 0n : 64n,
    backingSize: BigInt(name.length),
    ...spec.fields,
  };
  const found = new Map<number, Uint8Array>();
  for (const [field, [offset, size]] of Object.entries(HEADER_FIELDS)) {
    const bytes = Buffer.alloc(size);
    if (size === 4) bytes.writeUInt32LE(Number(header[field as QedField]));
    else bytes.writeBigUInt64LE(header[field as QedField]);
    found.set(offset, bytes);
  }
  if (name.length > 0) found.set(64, name);
  const entries: Record<number, bigint> = {
    ...(spec.empty === true ? {} : { [L1]: BigInt(L2), [L2]: BigInt(FIRST_DATA), [L2 + 8]: BigInt(SECOND_DATA) }),
    ...spec.entries,
  };
  if (spec.empty !== true) {
    found.set(FIRST_DATA, Buffer.alloc(CLUSTER, 0xaa));
    found.set(SECOND_DATA, Buffer.alloc(CLUSTER, 0xbb));
  }
  for (const [offset, value] of Object.entries(entries)) {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(value);
    found.set(Number(offset), bytes);
  }
  for (const [offset, bytes] of Object.entries(spec.bytes ?? {})) found.set(Number(offset), bytes);
  return found;
}

/** Writes an image file; a long one is sparse. */
export function writeQed(path: string, spec: QedSpec = {}): void {
  const length = spec.length ?? FILE_BYTES;
  const file = openSync(path, 'w');
  try {
    for (const [offset, bytes] of pieces(spec)) {
      const inside = Math.max(0, Math.min(bytes.length, length - offset));
      if (inside > 0) writeSync(file, bytes, 0, inside, offset);
    }
    ftruncateSync(file, length);
  } finally {
    closeSync(file);
  }
}

/** The u64 at `offset` of an image in memory. */
export function u64At(bytes: Uint8Array, offset: number): bigint {
  return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(offset, true);
}
