// Images that are nothing but tables, with one cluster of data: what an open costs that reads more than it needs.

import { hostOffset, roundUp } from '../../src/bytes/offsets.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { MemoryHostFile } from './memory-file.ts';
import { createMemoryImage } from './memory-images.ts';
import { COPIED, put32, put64 } from './qcow2-bytes.ts';

export const CLUSTER = 65_536;
/** Bytes of the disk that one L2 table maps, in both formats. */
export const COVERED = (CLUSTER / 8) * CLUSTER;
/** The last cluster of the disk has data, and holds this byte. */
export const DATA_BYTE = 0x5a;

export type TableHeavyFormat = 'qed' | 'qcow2';

/** An image with so many L2 tables, all of whose clusters read as zeros but the last one. */
export function tableHeavy(format: TableHeavyFormat, tables: number): MemoryHostFile {
  return format === 'qed' ? tableHeavyQed(tables) : tableHeavyQcow2(tables);
}

function tableHeavyQed(tables: number): MemoryHostFile {
  const file = new MemoryHostFile();
  const header = Buffer.alloc(CLUSTER);
  header.writeUInt32LE(0x00444551, 0);
  for (const [at, value] of [
    [4, CLUSTER],
    [8, 1],
    [12, 1],
  ] as const)
    header.writeUInt32LE(value, at);
  header.writeBigUInt64LE(BigInt(CLUSTER), 40);
  header.writeBigUInt64LE(BigInt(tables * COVERED), 48);
  file.write(header, 0, CLUSTER, hostOffset(0));
  const first = 2 * CLUSTER;
  const data = first + tables * CLUSTER;
  const l1 = Buffer.alloc(CLUSTER);
  for (let index = 0; index < tables; index++) l1.writeBigUInt64LE(BigInt(first + index * CLUSTER), index * 8);
  file.write(l1, 0, CLUSTER, hostOffset(CLUSTER));
  const table = Buffer.alloc(CLUSTER);
  for (let at = 0; at < CLUSTER; at += 8) table.writeBigUInt64LE(1n, at);
  for (let index = 0; index < tables; index++) {
    if (index === tables - 1) table.writeBigUInt64LE(BigInt(data), CLUSTER - 8);
    file.write(table, 0, CLUSTER, hostOffset(first + index * CLUSTER));
  }
  file.write(Buffer.alloc(CLUSTER, DATA_BYTE), 0, CLUSTER, hostOffset(data));
  return file;
}

/** The counters of what is added are missing, so this one is for reading. */
function tableHeavyQcow2(tables: number): MemoryHostFile {
  const file = createMemoryImage(qcow2, tables * COVERED);
  const l1 = roundUp(file.size(), CLUSTER);
  const first = l1 + roundUp(tables * 8, CLUSTER);
  const data = first + tables * CLUSTER;
  put32(file, 36, tables);
  put64(file, 40, l1);
  const table = Buffer.alloc(CLUSTER);
  for (let at = 0; at < CLUSTER; at += 8) table.writeBigUInt64BE(1n, at);
  for (let index = 0; index < tables; index++) {
    put64(file, l1 + index * 8, COPIED | BigInt(first + index * CLUSTER));
    if (index === tables - 1) table.writeBigUInt64BE(COPIED | BigInt(data), CLUSTER - 8);
    file.write(table, 0, CLUSTER, hostOffset(first + index * CLUSTER));
  }
  file.write(Buffer.alloc(CLUSTER, DATA_BYTE), 0, CLUSTER, hostOffset(data));
  return file;
}

/** All bytes of a file in memory. */
export function contentOf(file: MemoryHostFile): Buffer {
  const bytes = Buffer.alloc(file.size());
  file.read(bytes, 0, bytes.length, hostOffset(0));
  return bytes;
}
