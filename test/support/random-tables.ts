// Images in memory with random tables, most of them damaged: entries, counters and table entries that a seed has changed to
// copies of each other, to other clusters, to places beyond the file, to other flags, or to noise.

import { guestOffset, hostOffset, roundUp } from '../../src/bytes/offsets.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import type { MemoryHostFile } from './memory-file.ts';
import { createMemoryImage, openImage } from './memory-images.ts';
import { COMPRESSED, COPIED, get32, get64, OFFSET_MASK, put32, put64 } from './qcow2-bytes.ts';

type Random = () => number;

const below = (random: Random, limit: number): number => Math.floor(random() * limit);
const pick = <T>(random: Random, choices: readonly T[]): T => choices[below(random, choices.length)]!;

function writeRuns(random: Random, file: MemoryHostFile, format: typeof qed | typeof qcow2, clusterSize: number): void {
  const image = openImage(format, file);
  const clusters = image.virtualSize() / clusterSize;
  for (let run = below(random, 12); run > 0; run--) {
    const first = below(random, clusters);
    const count = Math.min(clusters - first, 1 + below(random, pick(random, [2, 20, 300])));
    image.write(
      new Uint8Array(count * clusterSize).fill(run),
      0,
      count * clusterSize,
      guestOffset(first * clusterSize),
    );
  }
  image.close();
}

function options(random: Random): Record<string, string> {
  if (random() < 0.15) return { cluster_size: '16384', extended_l2: 'on', refcount_bits: pick(random, ['16', '2']) };
  if (random() < 0.15) return { cluster_size: pick(random, ['512', '4096']), compat: '0.10' };
  return {
    cluster_size: pick(random, ['512', '512', '1024', '4096']),
    refcount_bits: pick(random, ['1', '2', '4', '8', '16', '16', '16', '32', '64']),
  };
}

/** Host offsets of the L2 tables that an L1 table leads to. */
function tablesOf(file: MemoryHostFile): number[] {
  const entries = get32(file, 36);
  const l1 = Number(get64(file, 40));
  const tables: number[] = [];
  for (let index = 0; index < entries; index++) {
    const table = Number(get64(file, l1 + index * 8) & OFFSET_MASK);
    if (table > 0 && table < file.size()) tables.push(table);
  }
  return tables;
}

/** Gives the image snapshots whose L1 tables are copies of the active one; some share theirs. */
function addSnapshots(random: Random, file: MemoryHostFile, clusterSize: number): void {
  const count = pick(random, [1, 1, 2, 9]);
  const entries = get32(file, 36);
  const active = new Uint8Array(entries * 8);
  file.read(active, 0, active.length, hostOffset(Number(get64(file, 40))));
  const table = Buffer.alloc(count * 72);
  let l1 = roundUp(file.size(), clusterSize);
  for (let index = 0; index < count; index++) {
    if (index === 0 || random() < 0.5) {
      l1 = roundUp(file.size(), clusterSize);
      file.write(active, 0, active.length, hostOffset(l1));
      file.truncate(roundUp(file.size(), clusterSize));
    }
    table.writeBigUInt64BE(BigInt(l1), index * 72);
    table.writeUInt32BE(entries, index * 72 + 8);
    table.writeUInt16BE(5, index * 72 + 12);
    table.writeUInt32BE(24, index * 72 + 36);
    table.write(String(index).padStart(5), index * 72 + 64);
  }
  const at = file.size();
  file.write(table, 0, table.length, hostOffset(at));
  file.truncate(roundUp(file.size(), clusterSize));
  put32(file, 60, count);
  put64(file, 64, at);
}

/** What may stand in a damaged entry. @param other an entry of the image */
function damagedEntry(random: Random, file: MemoryHostFile, clusterSize: number, other: bigint): bigint {
  const clusters = Math.ceil(file.size() / clusterSize);
  const cluster = BigInt(below(random, clusters + 2) * clusterSize);
  return pick(random, [
    () => 0n,
    () => 1n,
    () => other,
    () => other ^ COPIED,
    () => other ^ 1n,
    () => cluster,
    () => cluster | COPIED,
    () => cluster | COPIED | 1n,
    () => cluster | 512n,
    () => COMPRESSED | BigInt(below(random, file.size())) | (BigInt(below(random, 3)) << 61n),
    () => COMPRESSED | BigInt(below(random, file.size())),
    () => (1n << BigInt(below(random, 64))) | cluster,
    () => BigInt(Math.floor(random() * 2 ** 52)) << BigInt(below(random, 12)),
  ])();
}

/** @param damages how many entries and counters are changed at most */
export function randomQcow2(random: Random, damages: number): MemoryHostFile {
  const chosen = options(random);
  const clusterSize = Number(chosen['cluster_size']);
  const file = createMemoryImage(qcow2, clusterSize * (16 + below(random, 3000)), chosen);
  writeRuns(random, file, qcow2, clusterSize);
  if (random() < 0.4) addSnapshots(random, file, clusterSize);
  const l1 = Number(get64(file, 40));
  const refcountTable = Number(get64(file, 48));
  for (let left = below(random, damages + 1); left > 0; left--) {
    const tables = tablesOf(file);
    const l1Entry = l1 + below(random, get32(file, 36)) * 8;
    const l2Entry = tables.length === 0 ? l1Entry : pick(random, tables) + below(random, clusterSize / 8) * 8;
    const neighbour = l2Entry >= 8 ? get64(file, l2Entry - 8) : 0n;
    const other = random() < 0.5 ? get64(file, l2Entry) : neighbour;
    const block = Number(get64(file, refcountTable) & OFFSET_MASK);
    const kind = random();
    if (kind < 0.6) put64(file, l2Entry, damagedEntry(random, file, clusterSize, other));
    else if (kind < 0.7) put64(file, l1Entry, damagedEntry(random, file, clusterSize, get64(file, l1Entry)));
    else if (kind < 0.97 && block > 0 && block < file.size())
      file.write(Uint8Array.of(below(random, 4)), 0, 1, hostOffset(block + below(random, clusterSize)));
    else put64(file, refcountTable + below(random, 2) * 8, BigInt(below(random, 8) * clusterSize));
  }
  return file;
}

export function randomQed(random: Random, damages: number): MemoryHostFile {
  const clusterSize = 4096;
  const file = createMemoryImage(qed, clusterSize * (16 + below(random, 3000)), {
    cluster_size: String(clusterSize),
    table_size: pick(random, ['1', '2', '4']),
  });
  writeRuns(random, file, qed, clusterSize);
  const view = (at: number): bigint => {
    const bytes = Buffer.alloc(8);
    file.read(bytes, 0, 8, hostOffset(at));
    return bytes.readBigUInt64LE();
  };
  for (let left = below(random, damages + 1); left > 0; left--) {
    const l1Entry = clusterSize + below(random, 4) * 8;
    const table = Number(view(l1Entry));
    // a damaged entry may lead into the header, which stays as it is
    const isTable = table >= clusterSize && table < file.size();
    const at = isTable && random() < 0.85 ? table + below(random, (clusterSize / 8) * 2) * 8 : l1Entry;
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(damagedEntry(random, file, clusterSize, view(Math.max(0, at - 8))) & (2n ** 64n - 1n));
    file.write(bytes, 0, 8, hostOffset(at));
  }
  return file;
}
