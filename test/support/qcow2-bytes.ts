// The tables of a small qcow2 image in memory, found and changed without the engine: what a test damages, and where.

import { hostOffset, roundUp } from '../../src/bytes/offsets.ts';
import type { HostFile } from '../../src/host/host-file.ts';

export const COPIED = 1n << 63n;
export const COMPRESSED = 1n << 62n;
export const OFFSET_MASK = 0x00fffffffffffe00n;

export function get32(file: HostFile, offset: number): number {
  const bytes = Buffer.alloc(4);
  file.read(bytes, 0, 4, hostOffset(offset));
  return bytes.readUInt32BE();
}

export function get64(file: HostFile, offset: number): bigint {
  const bytes = Buffer.alloc(8);
  file.read(bytes, 0, 8, hostOffset(offset));
  return bytes.readBigUInt64BE();
}

export function put32(file: HostFile, offset: number, value: number): void {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  file.write(bytes, 0, 4, hostOffset(offset));
}

export function put64(file: HostFile, offset: number, value: bigint | number): void {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  file.write(bytes, 0, 8, hostOffset(offset));
}

/** Where the first of everything is. */
export interface Places {
  readonly clusterSize: number;
  readonly l1: number;
  readonly l2: number;
  /** host offset of guest cluster 0 */
  readonly data: number;
  readonly refcountTable: number;
  readonly refcountBlock: number;
}

export function placesOf(file: HostFile): Places {
  const l1 = Number(get64(file, 40));
  const l2 = Number(get64(file, l1) & OFFSET_MASK);
  const refcountTable = Number(get64(file, 48));
  return {
    clusterSize: 2 ** get32(file, 20),
    l1,
    l2,
    data: Number(get64(file, l2) & OFFSET_MASK),
    refcountTable,
    refcountBlock: Number(get64(file, refcountTable)),
  };
}

/** Sets one 16-bit counter. */
export function putCounter16(file: HostFile, cluster: number, value: number): void {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  file.write(bytes, 0, 2, hostOffset(placesOf(file).refcountBlock + cluster * 2));
}

/** An entry of the snapshot table as it is written, true or not. */
export interface RawSnapshot {
  readonly id?: string | Uint8Array;
  readonly name?: string | Uint8Array;
  readonly l1Offset: number | bigint;
  readonly l1Size: number;
  /** absent: the entry has no extra data */
  readonly diskSize?: number | bigint;
}

/** Puts a snapshot table at the end of the file, in place of the one that the header names. @returns its host offset */
export function putSnapshots(file: HostFile, snapshots: readonly RawSnapshot[]): number {
  const entries = snapshots.map(({ id = '1', name = 'one', l1Offset, l1Size, diskSize }) => {
    const extra = diskSize === undefined ? 0 : 16;
    const [idBytes, nameBytes] = [Buffer.from(id as string), Buffer.from(name as string)];
    const entry = Buffer.alloc(roundUp(40 + extra + idBytes.length + nameBytes.length, 8));
    entry.writeBigUInt64BE(BigInt(l1Offset), 0);
    entry.writeUInt32BE(l1Size, 8);
    entry.writeUInt16BE(idBytes.length, 12);
    entry.writeUInt16BE(nameBytes.length, 14);
    entry.writeUInt32BE(extra, 36);
    if (diskSize !== undefined) entry.writeBigUInt64BE(BigInt(diskSize), 48);
    idBytes.copy(entry, 40 + extra);
    nameBytes.copy(entry, 40 + extra + idBytes.length);
    return entry;
  });
  const bytes = Buffer.concat(entries);
  const offset = roundUp(file.size(), placesOf(file).clusterSize);
  file.write(bytes, 0, bytes.length, hostOffset(offset));
  put32(file, 60, snapshots.length);
  put64(file, 64, offset);
  return offset;
}
