// Images that are full and hold next to nothing: every cluster of the disk is allocated in the tables, and the data is one hole
// of the file. 16 TiB take 2.6 GiB of the host.

import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readSync, rmSync, writeSync } from 'node:fs';

const CLUSTER = 65536;

/** @param size in bytes @returns whether the file system of the images has files of that length, with their tables */
export function canHold(workshop, size) {
  const path = workshop.path('length');
  const fd = openSync(path, 'w');
  try {
    ftruncateSync(fd, size + size / 1024);
    return true;
  } catch {
    return false;
  } finally {
    closeSync(fd);
    rmSync(path);
  }
}

/** A qcow2 image as qemu-img allocates it: each L2 table lies before the data that it maps. */
export function fullQcow2(path, size) {
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', path, String(size)]);
}

/** Exchanges the clusters of a qcow2 image at random, as if the guest had written to its disk in that order. */
export function scatter(path) {
  const fd = openSync(path, 'r+');
  const header = readAt(fd, 0, 104);
  const l1 = readAt(fd, Number(header.readBigUInt64BE(40)), header.readUInt32BE(36) * 8);
  const tables = [];
  for (let at = 0; at < l1.length; at += 8) tables.push(Number(l1.readBigUInt64BE(at) & 0xfffffffffffe00n));
  const perTable = CLUSTER / 8;
  const entries = new BigUint64Array(tables.length * perTable);
  const bytes = Buffer.from(entries.buffer);
  for (const [index, table] of tables.entries()) readSync(fd, bytes, index * CLUSTER, CLUSTER, table);
  let state = 1;
  for (let last = entries.length - 1; last > 0; last--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((state / 2 ** 32) * (last + 1));
    [entries[last], entries[other]] = [entries[other], entries[last]];
  }
  for (const [index, table] of tables.entries()) writeSync(fd, bytes, index * CLUSTER, CLUSTER, table);
  closeSync(fd);
}

/** A QED image whose L2 tables each lie before the data that they map, as QEMU allocates in a disk that is written in order. */
export function fullQed(path, size) {
  const tableBytes = 4 * CLUSTER;
  const covered = (tableBytes / 8) * CLUSTER;
  const tables = Math.ceil(size / covered);
  const firstTable = CLUSTER + tableBytes;
  const fd = openSync(path, 'w');
  const header = Buffer.alloc(CLUSTER);
  header.writeUInt32LE(0x00444551, 0);
  for (const [at, value] of [
    [4, CLUSTER],
    [8, 4],
    [12, 1],
  ])
    header.writeUInt32LE(value, at);
  header.writeBigUInt64LE(BigInt(CLUSTER), 40);
  header.writeBigUInt64LE(BigInt(size), 48);
  writeSync(fd, header, 0, CLUSTER, 0);
  const l1 = Buffer.alloc(tableBytes);
  const table = Buffer.alloc(tableBytes);
  for (let index = 0; index < tables; index++) {
    const at = firstTable + index * (tableBytes + covered);
    l1.writeBigUInt64LE(BigInt(at), index * 8);
    for (let entry = 0; entry < tableBytes / 8; entry++)
      table.writeBigUInt64LE(BigInt(at + tableBytes + entry * CLUSTER), entry * 8);
    writeSync(fd, table, 0, tableBytes, at);
  }
  writeSync(fd, l1, 0, tableBytes, CLUSTER);
  ftruncateSync(fd, firstTable + tables * (tableBytes + covered));
  closeSync(fd);
}

function readAt(fd, offset, length) {
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, offset);
  return bytes;
}
