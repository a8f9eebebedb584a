// A naive writer of qcow2 headers for tests, independent of src/format/qcow2: every field as a BigInt at the place where the
// specification has it, so that each can be set to something that cannot be true.

import { MemoryHostFile } from '../../../../support/memory-file.ts';

const FIELDS = {
  magic: [0, 4],
  version: [4, 4],
  backingOffset: [8, 8],
  backingSize: [16, 4],
  clusterBits: [20, 4],
  size: [24, 8],
  cryptMethod: [32, 4],
  l1Size: [36, 4],
  l1TableOffset: [40, 8],
  refcountTableOffset: [48, 8],
  refcountTableClusters: [56, 4],
  snapshotCount: [60, 4],
  snapshotsOffset: [64, 8],
  incompatible: [72, 8],
  compatible: [80, 8],
  autoclear: [88, 8],
  refcountOrder: [96, 4],
  headerLength: [100, 4],
  compressionType: [104, 1],
} as const;

export type Qcow2Field = keyof typeof FIELDS;

export const CLUSTER = 65536;
/** header, refcount table, refcount block, L1 table, one more */
export const FILE_BYTES = 5 * CLUSTER;

export interface HeaderSpec {
  /** fields that differ from those of the default image: version 3, clusters of 64 KiB, a disk of 1 MiB */
  readonly fields?: Readonly<Partial<Record<Qcow2Field, bigint>>>;
  /** bytes at an offset */
  readonly bytes?: Readonly<Record<number, Uint8Array>>;
  /** header extensions from the end of the header on, not ended unless a type 0 is among them */
  readonly extensions?: readonly (readonly [type: number, data: Uint8Array])[];
  readonly backing?: string;
  /** length of the file; absent: five clusters of 64 KiB */
  readonly length?: number;
}

export function writeQcow2(spec: HeaderSpec = {}): MemoryHostFile {
  const backingOffset = 2048;
  const name = Buffer.from(spec.backing ?? '');
  const fields: Record<Qcow2Field, bigint> = {
    magic: 0x514649fbn,
    version: 3n,
    backingOffset: spec.backing === undefined ? 0n : BigInt(backingOffset),
    backingSize: BigInt(name.length),
    clusterBits: 16n,
    size: 1024n * 1024n,
    cryptMethod: 0n,
    l1Size: 1n,
    l1TableOffset: 3n * BigInt(CLUSTER),
    refcountTableOffset: BigInt(CLUSTER),
    refcountTableClusters: 1n,
    snapshotCount: 0n,
    snapshotsOffset: 0n,
    incompatible: 0n,
    compatible: 0n,
    autoclear: 0n,
    refcountOrder: 4n,
    headerLength: 112n,
    compressionType: 0n,
    ...spec.fields,
  };
  const content = Buffer.alloc(Math.max(spec.length ?? FILE_BYTES, 4096));
  for (const [field, [offset, size]] of Object.entries(FIELDS)) {
    // version 2 ends at 72
    if (fields.version === 2n && offset >= 72) continue;
    const value = fields[field as Qcow2Field];
    if (size === 8) content.writeBigUInt64BE(value, offset);
    else if (size === 4) content.writeUInt32BE(Number(value), offset);
    else content.writeUInt8(Number(value), offset);
  }
  let at = fields.version === 2n ? 72 : Number(fields.headerLength);
  for (const [type, data] of spec.extensions ?? []) {
    content.writeUInt32BE(type, at);
    content.writeUInt32BE(data.length, at + 4);
    content.set(data, at + 8);
    at += 8 + Math.ceil(data.length / 8) * 8;
  }
  content.set(name, name.length === 0 ? 0 : Number(fields.backingOffset));
  for (const [offset, bytes] of Object.entries(spec.bytes ?? {})) content.set(bytes, Number(offset));
  return new MemoryHostFile(content.subarray(0, spec.length ?? FILE_BYTES), '/images/disk.qcow2');
}

export function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

/** Big-endian fields one after another: [bytes, value]. */
export function pack(...fields: readonly (readonly [size: 1 | 2 | 4 | 8, value: bigint | number])[]): Uint8Array {
  const bytes: number[] = [];
  for (const [size, value] of fields) {
    for (let shift = BigInt(size * 8 - 8); shift >= 0n; shift -= 8n)
      bytes.push(Number((BigInt(value) >> shift) & 255n));
  }
  return Uint8Array.from(bytes);
}
