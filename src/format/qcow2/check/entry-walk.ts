// The walk of the entries of L2 tables: counts what they refer to and reports what is impossible. Almost all entries of almost
// all images are runs: each leads to the cluster after that of its neighbour, with the same flags, inside the file. A run is
// found in a tight loop and counted at once. Any other entry is looked at by itself.

import { hex } from '../../../bytes/offsets.ts';
import { isCorrupt } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { compressedLength, compressedOffset, parseCompressedDescriptor } from '../compressed.ts';
import type { Geometry } from '../geometry.ts';
import type { Qcow2Header } from '../header/header.ts';
import { subclusterFault } from '../subcluster.ts';
import { hasReservedBits, isCompressed, isCopied, offsetOf, QCOW_OFLAG_ZERO } from '../table.ts';
import type { ClusterUses } from './cluster-uses.ts';
import { type Findings, flagSentence, showOffset } from './findings.ts';
import type { OnDiskRefcounts } from './on-disk-refcounts.ts';

/** Bits of the high word of an entry that are clear in a run: the offset and COPIED are the others. */
const NOT_IN_RUN = 0x7f000000;

/** How an L2 table is used. */
interface TableUse {
  /** L1 entries that refer to it, snapshots included */
  readonly references: number;
  /** whether the active layer uses it */
  readonly isActive: boolean;
  /** guest offset of the first byte that the table maps */
  readonly guest: number;
}

interface EntryWalkParts {
  readonly file: HostFile;
  readonly header: Qcow2Header;
  readonly geometry: Geometry;
  readonly uses: ClusterUses;
  readonly findings: Findings;
  /** a COPIED flag must agree with these */
  readonly counters: OnDiskRefcounts;
}

export class EntryWalk {
  /** host offsets of zero entries whose preallocated cluster is impossible */
  readonly badZeroEntries: number[] = [];
  private readonly parts: EntryWalkParts;
  private readonly clusterSize: number;
  /** clusters in a byte */
  private readonly perByte: number;
  private readonly entryBytes: number;
  /** whether bit 0 is the zero flag */
  private readonly hasZeroFlag: boolean;
  /** bits of the low word that are clear in a run */
  private readonly notInRun: number;
  /** offset of the last cluster of the file */
  private readonly lastCluster: number;
  /** host offset that the next data cluster has if the file is not fragmented; 0 before the first */
  private nextData = 0;

  constructor(parts: EntryWalkParts) {
    const { geometry, header, uses } = parts;
    this.parts = parts;
    this.clusterSize = geometry.clusterSize;
    this.perByte = 1 / geometry.clusterSize;
    this.entryBytes = geometry.l2EntryBytes;
    this.hasZeroFlag = header.version === 3 && !header.extendedL2;
    const isZeroInRun = this.hasZeroFlag && !header.hasExternalData;
    this.notInRun = (geometry.clusterSize - 1) & ~(isZeroInRun ? QCOW_OFLAG_ZERO : 0);
    this.lastCluster = uses.fileEnd - geometry.clusterSize;
  }

  /** Walks an L2 table. @param l2 has the table from byte `base` on @param table its host offset */
  walk(l2: DataView, base: number, table: number, use: TableUse): void {
    const { entryBytes, notInRun } = this;
    const { extendedL2 } = this.parts.header;
    const notInEmpty = this.hasZeroFlag ? ~QCOW_OFLAG_ZERO : -1;
    const end = base + this.clusterSize;
    for (let at = base; at < end; ) {
      const high = l2.getInt32(at);
      const low = l2.getInt32(at + 4);
      let count = 1;
      if ((high | (low & notInEmpty)) !== 0 || (extendedL2 && !isBitmapEmpty(l2, at))) {
        count = ((high & NOT_IN_RUN) | (low & notInRun)) === 0 ? this.walkRun(l2, at, base, table, use) : 0;
        if (count === 0) {
          this.walkOne(l2, at, table + at - base, use.guest + ((at - base) / entryBytes) * this.clusterSize, use);
          count = 1;
        }
      }
      at += count * entryBytes;
    }
  }

  /** @returns number of entries in the run that begins at `at`, which are counted then; 0 if walkOne() has to look at the entry */
  private walkRun(l2: DataView, at: number, base: number, table: number, use: TableUse): number {
    const { clusterSize, entryBytes } = this;
    const { extendedL2, hasExternalData } = this.parts.header;
    if (extendedL2 && this.bitmapFault(l2, at) !== null) return 0;
    const high = l2.getInt32(at);
    const low = l2.getInt32(at + 4);
    const host = (high & 0x00ffffff) * 2 ** 32 + ((low & ~QCOW_OFLAG_ZERO) >>> 0);
    const end = base + clusterSize;
    if (hasExternalData) {
      if (!use.isActive) return this.runLength(l2, at, end);
      if (high >= 0 || host !== use.guest + ((at - base) / entryBytes) * clusterSize) return 0;
      const count = this.runLength(l2, at, end);
      this.countData(host, count);
      return count;
    }
    if (host === 0 || host > this.lastCluster) return 0;
    let count = this.runLength(l2, at, end);
    if (count > 1) count = Math.min(count, (this.lastCluster - host) / clusterSize + 1);
    this.parts.uses.addClusters(host, count, use.references);
    if (!use.isActive) return count;
    this.compareFlags(table + at - base, host, count, high < 0);
    if ((low & QCOW_OFLAG_ZERO) === 0) this.countData(host, count);
    return count;
  }

  /** Number of entries from `at` on, before `end`, that lead to adjoining clusters and are alike in all else. */
  private runLength(l2: DataView, at: number, end: number): number {
    const { clusterSize, entryBytes } = this;
    const isExtended = this.parts.header.extendedL2;
    let high = l2.getInt32(at);
    let low = l2.getInt32(at + 4);
    let count = 1;
    for (let next = at + entryBytes; next < end; next += entryBytes) {
      low = (low + clusterSize) | 0;
      if ((low & ~QCOW_OFLAG_ZERO) === 0) high = (high + 1) | 0;
      if (l2.getInt32(next + 4) !== low || l2.getInt32(next) !== high) break;
      if (isExtended && !isBitmapEqual(l2, at, next)) break;
      count++;
    }
    return count;
  }

  /** @param at host offset of the entry @param guest offset of the first byte that it maps */
  private walkOne(l2: DataView, inView: number, at: number, guest: number, use: TableUse): void {
    const { findings, header } = this.parts;
    const high = l2.getUint32(inView);
    const low = l2.getUint32(inView + 4);
    const fault = header.extendedL2 && !isCompressed(high) ? this.bitmapFault(l2, inView) : null;
    if (fault !== null) findings.unrepairable(`the L2 entry at offset ${hex(at)} is damaged: ${fault}`);
    if (high === 0 && low === 0) return;
    if (isCompressed(high)) this.walkCompressed(high, low, at, use);
    else this.walkEntry(high, low, at, guest, use);
  }

  /** Each L1 entry that refers to the table adds one reference. @param guest offset of the first byte that the entry maps */
  private walkEntry(high: number, low: number, at: number, guest: number, { references, isActive }: TableUse): void {
    const { findings, header, uses } = this.parts;
    const isZero = this.hasZeroFlag && (low & QCOW_OFLAG_ZERO) !== 0;
    const host = offsetOf(high, low);
    if (isZero && host !== 0 && !header.hasExternalData && !uses.isCluster(host)) {
      this.reportBadZero(at, host);
      return;
    }
    if (this.hasReserved(high, low)) findings.unrepairable(`the L2 entry at offset ${hex(at)} has reserved bits set`);
    if (header.hasExternalData) {
      if (isActive && (host !== 0 || isCopied(high))) this.checkDataFileEntry(at, host, guest, isCopied(high), isZero);
      return;
    }
    if (host === 0) return;
    if (!uses.addCluster(host, () => `the L2 entry at offset ${hex(at)}`, null, references)) {
      findings.unfollowed++;
      return;
    }
    if (!isActive) return;
    this.compareFlag(at, host, isCopied(high));
    if (!isZero) this.countData(host, 1);
  }

  private walkCompressed(high: number, low: number, at: number, { references, isActive }: TableUse): void {
    const { findings, header } = this.parts;
    if (header.hasExternalData) {
      findings.unrepairable(
        `the L2 entry at offset ${hex(at)} is compressed, which an image with a data file does not allow`,
      );
      return;
    }
    this.useCompressed(high, low, at, references);
    if (!isActive) return;
    if (isCopied(high)) findings.flagFault(`the compressed cluster of the entry at offset ${hex(at)} has COPIED set`);
    findings.report.allocatedClusters++;
    findings.report.compressedClusters++;
    findings.report.fragmentedClusters++;
  }

  private useCompressed(high: number, low: number, at: number, references: number): void {
    const { file, findings, header, uses } = this.parts;
    const offset = compressedOffset(high, low, header.clusterBits);
    const bytes = compressedLength(high, offset, header.clusterBits);
    if (offset > 0 && uses.holds(offset, bytes)) {
      uses.addBytes(offset, bytes, references);
      return;
    }
    const context = { path: file.path, offset: at };
    try {
      const { hostOffset: start, length } = parseCompressedDescriptor(high, low, header.clusterBits, context);
      const what = `the compressed cluster of the L2 entry at offset ${hex(at)}`;
      if (!uses.add(start, length, what, null, references)) findings.unfollowed++;
    } catch (error) {
      if (!isCorrupt(error)) throw error;
      findings.cannotFollow((error as Error).message);
    }
  }

  private reportBadZero(at: number, host: number): void {
    const where = `${showOffset(host)}, which is not a cluster of this file`;
    this.parts.findings.repairable(`the zero entry at offset ${hex(at)} keeps ${where}`);
    this.badZeroEntries.push(at);
  }

  /** The active layer has data in so many clusters from `host` on. */
  private countData(host: number, count: number): void {
    const { report } = this.parts.findings;
    report.allocatedClusters += count;
    if (this.nextData !== 0 && host !== this.nextData) report.fragmentedClusters++;
    this.nextData = host + count * this.clusterSize;
  }

  /** In a data file each guest cluster lies at its guest offset and is never shared. @param at host offset of the L2 entry */
  private checkDataFileEntry(at: number, host: number, guest: number, copied: boolean, isZero: boolean): void {
    const { findings } = this.parts;
    if (host !== guest && !isZero) {
      const where = `${showOffset(host)} of the data file instead of ${hex(guest)}`;
      findings.unrepairable(`the L2 entry at offset ${hex(at)} refers to ${where}`);
      return;
    }
    if (!copied && !isZero) findings.flagFault(flagSentence(at, false));
    if (!isZero) this.countData(host, 1);
  }

  /** Version 2 and extended entries have no zero flag: QEMU answers EIO if that bit is set. */
  private hasReserved(high: number, low: number): boolean {
    const { extendedL2, version } = this.parts.header;
    return hasReservedBits(high, low) || ((extendedL2 || version === 2) && (low & QCOW_OFLAG_ZERO) !== 0);
  }

  private bitmapFault(l2: DataView, at: number): string | null {
    const bitmap = { zero: l2.getUint32(at + 8), allocated: l2.getUint32(at + 12) };
    const high = l2.getUint32(at);
    const hasHost = this.parts.header.hasExternalData ? isCopied(high) : offsetOf(high, l2.getUint32(at + 4)) !== 0;
    return subclusterFault(bitmap, hasHost);
  }

  /** The same for the entries of a run. */
  private compareFlags(at: number, host: number, count: number, copied: boolean): void {
    const { clusterSize, entryBytes } = this;
    if (count > 1 && this.parts.counters.areSingle(host / clusterSize, count, copied)) return;
    for (let i = 0; i < count; i++) this.compareFlag(at + i * entryBytes, host + i * clusterSize, copied);
  }

  /** COPIED means that the counter is exactly 1. Wrongly set, a write changes a snapshot; wrongly clear, it copies in vain. */
  compareFlag(at: number, host: number, copied: boolean): void {
    const { counters, findings } = this.parts;
    // exact: the size of a cluster is a power of two
    if (counters.isSingle(host * this.perByte) === copied) return;
    if (!copied) findings.harmlessFlags++;
    findings.flagFault(flagSentence(at, copied));
  }
}

/** Whether an extended entry says nothing of its subclusters. */
function isBitmapEmpty(l2: DataView, at: number): boolean {
  return (l2.getInt32(at + 8) | l2.getInt32(at + 12)) === 0;
}

function isBitmapEqual(l2: DataView, at: number, other: number): boolean {
  return l2.getInt32(at + 8) === l2.getInt32(other + 8) && l2.getInt32(at + 12) === l2.getInt32(other + 12);
}
