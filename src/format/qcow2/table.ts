// L1, L2 and refcount-table entries: big-endian u64 in cached slices, written through to the file before the slice changes
// (R8). Bits as in the specification:
//
//   L1       63 QCOW_OFLAG_COPIED   9-55 offset of the L2 table
//   L2       63 QCOW_OFLAG_COPIED   62 QCOW_OFLAG_COMPRESSED   9-55 host offset   0 QCOW_OFLAG_ZERO (v3)
//   refcount table                  9-63 offset of the refcount block
//
// With extended L2 entries a second u64, the bitmap of the subclusters (subcluster.ts), follows each L2 entry.
// An entry is handled as its two words. Used under the metadata lock; nothing here keeps a slice across calls (R2).

import { combine, hexWords } from '../../bytes/endian.ts';
import { after, type HostOffset, hostOffset, UNSET } from '../../bytes/offsets.ts';
import type { Failpoint } from '../../concurrency/failpoints.ts';
import type { TableCache } from '../../concurrency/table-cache.ts';
import { assert } from '../../errors/index.ts';
import { type HostFile, readPadded } from '../../host/host-file.ts';
import type { PendingLink } from '../mapped/pending-links.ts';
import { TableSlices } from '../mapped/table-slices.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { SubclusterBitmap } from './subcluster.ts';

/** In the high word. */
export const QCOW_OFLAG_COPIED = 0x80000000;
/** In the high word. */
export const QCOW_OFLAG_COMPRESSED = 0x40000000;
/** In the low word. */
export const QCOW_OFLAG_ZERO = 1;
const OFFSET_HIGH_MASK = 0x00ffffff;
const OFFSET_LOW_MASK = 0xfffffe00;
/** Bits that must be 0: 56-61 in the high word, 1-8 in the low word. */
const RESERVED_HIGH = 0x3f000000;
const RESERVED_LOW = 0x1fe;
const ENTRY_BYTES = 8;

/** One table entry; the table object reuses a single one. */
export interface Entry {
  high: number;
  low: number;
}

/** Adjoining standard entries of one slice. */
export interface EntryRun {
  readonly table: HostOffset;
  readonly index: number;
  readonly count: number;
  readonly flags: Readonly<Entry>;
  /** what the first entry points to; absent: the entries point nowhere */
  readonly host?: HostOffset;
  /** bytes between what two neighbours point to */
  readonly step: number;
}

/** An extended L2 entry of a cluster that is not compressed. */
export interface ExtendedEntry {
  /** 0: no host cluster */
  readonly host: HostOffset;
  readonly copied: boolean;
  readonly subclusters: SubclusterBitmap;
}

/** The offset in an L1 or standard L2 entry; NaN when it is no safe integer. */
export function offsetOf(high: number, low: number): HostOffset {
  return hostOffset(combine(high & OFFSET_HIGH_MASK, (low & OFFSET_LOW_MASK) >>> 0));
}

export function isCopied(high: number): boolean {
  return (high & QCOW_OFLAG_COPIED) !== 0;
}

export function isCompressed(high: number): boolean {
  return (high & QCOW_OFLAG_COMPRESSED) !== 0;
}

/** Reserved bits are set: the entry was not written by anything that we know. */
export function hasReservedBits(high: number, low: number): boolean {
  return (high & RESERVED_HIGH) !== 0 || (low & RESERVED_LOW) !== 0;
}

/** Where entry `index` of a table of u64 lies. */
export function entryAt(table: HostOffset, index: number): HostOffset {
  return after(table, index * ENTRY_BYTES);
}

/** A whole table as it stands in the file; what lies beyond its end reads as zeros. */
export function readTable(file: HostFile, offset: number, length: number): DataView {
  const bytes = new Uint8Array(length);
  readPadded(file, bytes, 0, length, hostOffset(offset));
  return new DataView(bytes.buffer);
}

export class Tables {
  readonly entry: Entry = { high: UNSET, low: UNSET };
  readonly slices: TableSlices;
  private readonly file: HostFile;
  private readonly tracker: WriteTracker;
  private readonly scratch: Uint8Array;
  private readonly scratchView: DataView;

  constructor(file: HostFile, cache: TableCache, tracker: WriteTracker, clusterSize: number) {
    this.file = file;
    // tables are whole clusters, but a file may end within its last one, and a truncated copy, which is only read, before it
    this.slices = new TableSlices(file, cache, file.readOnly ? Number.POSITIVE_INFINITY : clusterSize);
    this.tracker = tracker;
    this.scratch = new Uint8Array(cache.sliceBytes);
    this.scratchView = new DataView(this.scratch.buffer);
  }

  /** Fills `entry` with entry `index` of the table of u64 at `table`. */
  load(table: HostOffset, index: number): Entry {
    const at = this.slices.load(entryAt(table, index));
    this.entry.high = this.slices.view.getUint32(at, false);
    this.entry.low = this.slices.view.getUint32(at + 4, false);
    return this.entry;
  }

  describe(table: HostOffset, index: number): string {
    const { high, low } = this.load(table, index);
    return hexWords(high, low);
  }

  /** Writes one entry. */
  storeEntry(failpoint: Failpoint, entry: Omit<EntryRun, 'count' | 'step'>): void {
    this.store(failpoint, { ...entry, count: 1, step: 0 });
  }

  store(failpoint: Failpoint, { table, index, count, flags, host, step }: EntryRun): void {
    for (let i = 0; i < count; i++) {
      const offset = host === undefined ? 0 : host + i * step;
      this.scratchView.setUint32(i * ENTRY_BYTES, (Math.floor(offset / 2 ** 32) | flags.high) >>> 0, false);
      this.scratchView.setUint32(i * ENTRY_BYTES + 4, ((offset % 2 ** 32) | flags.low) >>> 0, false);
    }
    this.storeBytes(failpoint, entryAt(table, index), this.scratch.subarray(0, count * ENTRY_BYTES));
  }

  /** Writes standard L2 entries of one slice, in one host write with what stands between them. @param index of the first */
  storeLinks(table: HostOffset, index: number, flags: Readonly<Entry>, links: readonly PendingLink[]): void {
    const bytes = this.between(entryAt(table, index), links, ENTRY_BYTES);
    for (const { guestCluster, hostOffset: host } of links) {
      const at = (guestCluster - links[0]!.guestCluster) * ENTRY_BYTES;
      this.scratchView.setUint32(at, (Math.floor(host / 2 ** 32) | flags.high) >>> 0, false);
      this.scratchView.setUint32(at + 4, ((host % 2 ** 32) | flags.low) >>> 0, false);
    }
    this.storeBytes('l2-update', entryAt(table, index), bytes);
  }

  /** The same with extended entries. */
  storeExtendedLinks(table: HostOffset, index: number, links: readonly PendingLink[]): void {
    const bytes = this.between(entryAt(table, index * 2), links, 2 * ENTRY_BYTES);
    for (const { guestCluster, hostOffset: host, allocated, zero } of links) {
      const at = (guestCluster - links[0]!.guestCluster) * 2 * ENTRY_BYTES;
      this.setExtended(at, { host, copied: true, subclusters: { allocated, zero } });
    }
    this.storeBytes('l2-update', entryAt(table, index * 2), bytes);
  }

  /** Writes adjoining extended L2 entries that lie in one slice. */
  storeExtended(table: HostOffset, index: number, entries: readonly ExtendedEntry[]): void {
    const bytes = entries.length * 2 * ENTRY_BYTES;
    for (const [i, entry] of entries.entries()) this.setExtended(i * 2 * ENTRY_BYTES, entry);
    this.storeBytes('l2-update', entryAt(table, index * 2), this.scratch.subarray(0, bytes));
  }

  private setExtended(at: number, { host, copied, subclusters }: ExtendedEntry): void {
    const flag = copied ? QCOW_OFLAG_COPIED : 0;
    this.scratchView.setUint32(at, (Math.floor(host / 2 ** 32) | flag) >>> 0, false);
    this.scratchView.setUint32(at + 4, host % 2 ** 32, false);
    this.scratchView.setUint32(at + 8, subclusters.zero, false);
    this.scratchView.setUint32(at + 12, subclusters.allocated, false);
  }

  /** What the entries from the first to the last of some links are now, in the scratch bytes. @param start of the first one */
  private between(start: HostOffset, links: readonly PendingLink[], entryBytes: number): Uint8Array {
    const bytes = this.scratch.subarray(0, (links.at(-1)!.guestCluster - links[0]!.guestCluster + 1) * entryBytes);
    const at = this.slices.load(start);
    bytes.set(this.slices.bytes.subarray(at, at + bytes.length));
    return bytes;
  }

  /**
   * Writes bytes of a table that lie in one slice: one host write inside one page, and only then the cached slice. A write
   * that fails leaves the disk unknown and turns the image read-only, except for a full host file system, where nothing of
   * it was written and it works again once there is space (R8).
   */
  storeBytes(failpoint: Failpoint, offset: HostOffset, bytes: Uint8Array): void {
    assert(
      bytes.length > 0 && bytes.length <= this.slices.bytesInSlice(offset),
      `store of ${bytes.length} bytes at ${offset}`,
    );
    this.tracker.writeMetadata(failpoint, () => this.file.write(bytes, 0, bytes.length, offset));
    this.slices.written(offset, bytes);
  }
}
