// A check of qcow2 as one would write it first: BigInt entries, a Map of counts, one entry at a time, the whole file in memory.
// It knows headers, refcount structures, L1 and L2 tables and snapshots, and gives the figures and the sentences about
// counters and COPIED flags. The check of the engine must say the same.

import type { MemoryHostFile } from './memory-file.ts';
import { COMPRESSED, COPIED, OFFSET_MASK } from './qcow2-bytes.ts';

export interface NaiveResult {
  readonly allocated: number;
  readonly fragmented: number;
  readonly compressed: number;
  readonly imageEnd: number;
  readonly leaks: number;
  /** of counters and flags, sorted */
  readonly sentences: readonly string[];
}

const hex = (offset: bigint | number): string => `0x${offset.toString(16)}`;

class NaiveCheck {
  private readonly bytes: Buffer;
  private readonly clusterSize: bigint;
  private readonly fileEnd: bigint;
  private readonly counts = new Map<bigint, number>();
  /** block index -> host offset */
  private readonly blocks = new Map<bigint, bigint>();
  private readonly sentences: string[] = [];
  private readonly seenTables = new Map<bigint, { references: number; isActive: boolean }>();
  private allocated = 0;
  private fragmented = 0;
  private compressed = 0;
  private imageEnd = 0n;
  private leaks = 0;
  private nextData = 0n;

  constructor(file: MemoryHostFile) {
    this.bytes = Buffer.from(file.bytes());
    this.clusterSize = 1n << BigInt(this.bytes.readUInt32BE(20));
    this.fileEnd = ((BigInt(this.bytes.length) + this.clusterSize - 1n) / this.clusterSize) * this.clusterSize;
  }

  run(): NaiveResult {
    this.count(0n, this.clusterSize, 1);
    this.findBlocks();
    const l1 = this.u64(40n);
    this.walkL1(l1, this.u32(36n), true, 1);
    this.walkSnapshots();
    for (const [table, use] of this.seenTables) this.walkL2(table, use);
    this.compare();
    return {
      allocated: this.allocated,
      fragmented: this.fragmented,
      compressed: this.compressed,
      imageEnd: Number(this.imageEnd),
      leaks: this.leaks,
      sentences: this.sentences.sort(),
    };
  }

  private get isExtended(): boolean {
    return this.version === 3 && (this.u64(72n) & 16n) !== 0n;
  }

  private get version(): number {
    return this.u32(4n);
  }

  private get refcountBits(): bigint {
    return this.version === 3 ? 1n << BigInt(this.u32(96n)) : 16n;
  }

  private u32(at: bigint): number {
    return at + 4n <= this.bytes.length ? this.bytes.readUInt32BE(Number(at)) : 0;
  }

  private u64(at: bigint): bigint {
    return at + 8n <= this.bytes.length ? this.bytes.readBigUInt64BE(Number(at)) : 0n;
  }

  private isCluster(offset: bigint): boolean {
    return offset > 0n && offset % this.clusterSize === 0n && offset + this.clusterSize <= this.fileEnd;
  }

  private holds(offset: bigint, length: bigint): boolean {
    return offset + length < BigInt(this.bytes.length) + this.clusterSize;
  }

  private count(offset: bigint, length: bigint, references: number): void {
    const end = (offset + length + this.clusterSize - 1n) / this.clusterSize;
    for (let cluster = offset / this.clusterSize; cluster < end; cluster++)
      this.counts.set(cluster, (this.counts.get(cluster) ?? 0) + references);
    if (end * this.clusterSize > this.imageEnd) this.imageEnd = end * this.clusterSize;
  }

  private findBlocks(): void {
    const table = this.u64(48n);
    const length = BigInt(this.u32(56n)) * this.clusterSize;
    if (length === 0n || table === 0n || table % this.clusterSize !== 0n || table + length > this.fileEnd) return;
    this.count(table, length, 1);
    for (let index = 0n; index < length / 8n; index++) {
      const block = this.u64(table + index * 8n);
      if (block === 0n || block % this.clusterSize !== 0n || block + this.clusterSize > this.fileEnd) continue;
      const isFirst = !this.counts.has(block / this.clusterSize);
      this.count(block, this.clusterSize, 1);
      if (isFirst) this.blocks.set(index, block);
    }
  }

  /** undefined if no block counts the cluster */
  private counter(cluster: bigint): number | undefined {
    const bits = this.refcountBits;
    const perBlock = (this.clusterSize * 8n) / bits;
    const block = this.blocks.get(cluster / perBlock);
    if (block === undefined) return undefined;
    const index = cluster % perBlock;
    if (bits < 8n) {
      const byte = BigInt(this.bytes[Number(block + (index * bits) / 8n)] ?? 0);
      return Number((byte >> ((index * bits) % 8n)) & ((1n << bits) - 1n));
    }
    let value = 0n;
    for (let i = 0n; i < bits / 8n; i++)
      value = (value << 8n) | BigInt(this.bytes[Number(block + (index * bits) / 8n + i)] ?? 0);
    return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
  }

  private compareFlag(at: bigint, host: bigint, copied: boolean): void {
    const isSingle = (this.counter(host / this.clusterSize) ?? 0) === 1;
    if (isSingle === copied) return;
    const what = copied ? 'set, but its cluster is shared' : 'clear, but its cluster is not shared';
    this.sentences.push(`ERROR the entry at offset ${hex(at)} has COPIED ${what}`);
  }

  private walkL1(offset: bigint, entries: number, isActive: boolean, references: number): void {
    if (entries === 0 || !this.holds(offset, BigInt(entries) * 8n)) return;
    this.count(offset, BigInt(entries) * 8n, references);
    for (let at = offset; at < offset + BigInt(entries) * 8n; at += 8n) {
      const entry = this.u64(at);
      const table = entry & OFFSET_MASK;
      if (!this.isCluster(table)) continue;
      this.count(table, this.clusterSize, references);
      if (isActive) this.compareFlag(at, table, (entry & COPIED) !== 0n);
      const use = this.seenTables.get(table) ?? { references: 0, isActive };
      this.seenTables.set(table, { ...use, references: use.references + references });
    }
  }

  private walkSnapshots(): void {
    const count = this.u32(60n);
    const table = this.u64(64n);
    if (count === 0) return;
    const tables = new Map<bigint, number>();
    for (let at = table; at < table + BigInt(count) * 72n; at += 72n)
      tables.set(this.u64(at), (tables.get(this.u64(at)) ?? 0) + 1);
    this.count(table, BigInt(count) * 72n, 1);
    for (const [offset, references] of [...tables].sort(([a], [b]) => Number(a - b)))
      this.walkL1(offset, this.u32(36n), false, references);
  }

  private walkL2(table: bigint, { references, isActive }: { references: number; isActive: boolean }): void {
    const hasZeroFlag = this.version === 3 && !this.isExtended;
    for (let at = table; at < table + this.clusterSize; at += this.isExtended ? 16n : 8n) {
      const entry = this.u64(at);
      if ((entry & COMPRESSED) !== 0n) {
        this.walkCompressed(entry, references);
        if (!isActive) continue;
        this.allocated++;
        this.compressed++;
        this.fragmented++;
        continue;
      }
      const host = entry & OFFSET_MASK;
      if (!this.isCluster(host)) continue;
      this.count(host, this.clusterSize, references);
      if (!isActive) continue;
      this.compareFlag(at, host, (entry & COPIED) !== 0n);
      if (hasZeroFlag && (entry & 1n) !== 0n) continue;
      this.allocated++;
      if (this.nextData !== 0n && host !== this.nextData) this.fragmented++;
      this.nextData = host + this.clusterSize;
    }
  }

  private walkCompressed(entry: bigint, references: number): void {
    const x = 62n - (BigInt(this.bytes.readUInt32BE(20)) - 8n);
    const offset = entry & ((1n << x) - 1n);
    const sectors = (entry & (COMPRESSED - 1n)) >> x;
    const length = (sectors + 1n) * 512n - (offset % 512n);
    if (offset > 0n && offset < 1n << 53n && this.holds(offset, length)) this.count(offset, length, references);
  }

  private compare(): void {
    const perBlock = (this.clusterSize * 8n) / this.refcountBits;
    const clusters = new Set(this.counts.keys());
    for (const index of this.blocks.keys()) {
      for (let cluster = index * perBlock; cluster < (index + 1n) * perBlock; cluster++)
        if (cluster < this.fileEnd / this.clusterSize) clusters.add(cluster);
    }
    for (const cluster of clusters) {
      const references = this.counts.get(cluster) ?? 0;
      const counter = this.counter(cluster) ?? 0;
      if (counter === references) continue;
      const at = hex(cluster * this.clusterSize);
      const sentence = `cluster ${cluster} at ${at} has refcount ${counter} and ${references} references`;
      if (counter > references) this.leaks++;
      this.sentences.push(`${counter > references ? 'Leaked: ' : 'ERROR '}${sentence}`);
    }
  }
}

export function naiveCheck(file: MemoryHostFile): NaiveResult {
  return new NaiveCheck(file).run();
}
