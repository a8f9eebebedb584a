// Check and repair of a qcow2 image: compares the references that a walk counted with the counters (refcounts) on disk.
// Invariant: without a repair nothing is written. A repair raises counters, syncs, lowers counters, syncs, and sets the flags
// last, so a crash at any point leaves only faults that the next check repairs. No counter goes down while some table cannot
// be read, because that table may refer to the cluster.
//
//   1 walk      header, refcount table and blocks, L1 tables (active first), L2 tables, bitmaps, LUKS header; then: is
//               anything shared that is written in place?        reference-walk.ts, refcount-walk.ts, table-walk.ts
//   2 compare   counters with references: low, leaked or uncounted clusters                          Check.compare
//   3 flags     COPIED flags that disagree with the counters become corruptions                      Check.reportFlags
//   4 repair    raise and lower counters, or rebuild the refcount structures (rebuild-refcounts.ts);
//               then zero entries, then COPIED flags                                                 Check.repairAll
//   5 verify    walk and compare again; only a clean result clears the dirty and the corrupt bit     verify.ts
//
//   counter below the references         corruption; repair raises it
//   counter above the references         leak; repair lowers it, unless something could not be followed
//   refcount structures unusable         corruption; repair writes new ones at the end of the file
//   COPIED flag wrong                    corruption; repair sets it as the counter says
//   zero entry with a bad host offset    corruption; repair drops the offset, which holds no data
//   other entry with a bad host offset   corruption without a repair: nothing safe can replace it

import { hex, hostOffset } from '../../../bytes/offsets.ts';
import { describeError, ImgfuseError } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import { type CheckReport, limitedLog, MAX_FINDINGS } from '../../check-report.ts';
import { writeCounter } from '../counters/refcount.ts';
import type { Qcow2Header } from '../header/header.ts';
import { isCompressed, isCopied, offsetOf, QCOW_OFLAG_COPIED, QCOW_OFLAG_ZERO } from '../table.ts';
import { flagSentence } from './findings.ts';
import { COUNTERS_PER_STEP } from './on-disk-refcounts.ts';
import { rebuildRefcounts } from './rebuild-refcounts.ts';
import { ReferenceWalk, type WalkOptions } from './reference-walk.ts';

/** Walks the image and compares. Only the repair methods of the result write. */
export function examine(file: HostFile, header: Qcow2Header, options: WalkOptions): Check {
  const log = limitedLog(options.log);
  return new Check(file, header, new ReferenceWalk(file, header, { ...options, log }).run(), log);
}

export class Check {
  /** end (exclusive) of the clusters whose counter is not 0 */
  usedEnd = 0;
  private readonly file: HostFile;
  private readonly header: Qcow2Header;
  private readonly walk: ReferenceWalk;
  private readonly log: (sentence: string) => void;
  /** counters that are too low and can be raised in their block; raise() finds them again, as lower() finds the leaks */
  private lowCount = 0;
  /** clusters with references, but without a refcount block */
  private uncounted = 0;

  constructor(file: HostFile, header: Qcow2Header, walk: ReferenceWalk, log: (sentence: string) => void) {
    this.file = file;
    this.header = header;
    this.walk = walk;
    this.log = log;
    this.compare();
  }

  /** Call it when the file ended inside its L1 table and zeros have replaced the rest: the clusters it mapped stay as leaks. */
  noteTruncatedL1(): void {
    this.walk.report.corruptions++;
    this.walk.report.corruptionsFixed++;
    this.walk.unfollowed++;
  }

  /** Corruptions that a write would make worse: all but leaks and COPIED flags that are needlessly clear. */
  get dangers(): number {
    return this.walk.report.corruptions - this.walk.harmlessFlags;
  }

  /** Includes the COPIED flags only after reportFlags() or a repair. */
  get report(): CheckReport {
    return this.walk.report;
  }

  /** Whether repairAll() is expected to leave nothing wrong. */
  get isRepairable(): boolean {
    // the flags of a table that is also data cannot be set
    return this.walk.unrepairableCount === 0 && this.walk.tables.areTablesAlone;
  }

  /** Looks only at clusters with a refcount block or a reference, so the cost of a sparse file does not grow with its length. */
  private compare(): void {
    const { counters } = this.walk;
    const { counts } = this.walk.uses;
    for (const index of counters.indices()) this.compareBlock(index);
    for (const { start, end } of counts.ranges()) this.findUncounted(start, end);
  }

  /** Finds clusters from `start` to `end` with references, but without a refcount block. */
  private findUncounted(start: number, end: number): void {
    const { counters, geometry, uses } = this.walk;
    const { refcountsPerBlock } = geometry;
    for (let cluster = start; cluster < end; ) {
      if (counters.has(cluster)) {
        cluster = (Math.floor(cluster / refcountsPerBlock) + 1) * refcountsPerBlock;
        continue;
      }
      const references = uses.counts.get(cluster);
      if (references > 0 && this.canCount(cluster, this.sentence(cluster, 0, references))) this.uncounted++;
      cluster++;
    }
  }

  private compareBlock(index: number): void {
    const { counters, report } = this.walk;
    this.forEachDifference(index, (cluster, counter, references) => {
      if (counter < references) {
        if (this.canCount(cluster, this.sentence(cluster, counter, references))) this.lowCount++;
      } else if (report.leaks++ <= MAX_FINDINGS) this.log(`Leaked: ${this.sentence(cluster, counter, references)}`);
    });
    const start = index * this.walk.geometry.refcountsPerBlock;
    const usedEnd = counters.usedEnd(index, this.comparedEnd(index));
    if (usedEnd > start) this.usedEnd = usedEnd;
  }

  /** Visits the clusters of a block whose counter is not the number of references. */
  private forEachDifference(
    index: number,
    visit: (cluster: number, counter: number, references: number) => void,
  ): void {
    const { counters, geometry, uses } = this.walk;
    const { refcountsPerBlock } = geometry;
    const start = index * refcountsPerBlock;
    const end = this.comparedEnd(index);
    if (counters.isOnes(index) && end > start && uses.counts.areAll(start, end - start, 1)) return;
    const onDisk = new Float64Array(COUNTERS_PER_STEP);
    const found = new Float64Array(COUNTERS_PER_STEP);
    for (let first = start; first < end; first += COUNTERS_PER_STEP) {
      const count = Math.min(COUNTERS_PER_STEP, end - first);
      counters.load(first, count, onDisk);
      uses.counts.load(first, count, found);
      for (let i = 0; i < count; i++) if (onDisk[i] !== found[i]) visit(first + i, onDisk[i]!, found[i]!);
    }
  }

  /**
   * End of the clusters with a reference or a counter in a block. A counter beyond the end of the file means nothing: it is
   * set when the file grows.
   */
  private comparedEnd(index: number): number {
    const { counters, geometry, uses } = this.walk;
    const start = index * geometry.refcountsPerBlock;
    // a refcount table can point to millions of blocks that are holes, so do not loop over all counters
    const countedEnd = counters.usedEnd(index, uses.fileEnd / geometry.clusterSize);
    return Math.max(uses.counts.usedEnd(start, start + geometry.refcountsPerBlock), countedEnd);
  }

  /** Visits the runs of clusters below `usedEnd` whose counter is 0. */
  forEachFreeRun(visit: (start: number, count: number) => void): void {
    this.walk.counters.forEachFreeRun(this.usedEnd, visit);
  }

  /** Reports a counter that is too low. @returns whether a repair can store the number of references */
  private canCount(cluster: number, sentence: string): boolean {
    if (!this.fits(cluster)) {
      this.walk.unrepairable(`${sentence}, more than counters of ${this.walk.geometry.refcountBits} bits can hold`);
      return false;
    }
    this.walk.repairable(sentence);
    return true;
  }

  /** Whether a counter can hold the number of references to the cluster. */
  private fits(cluster: number): boolean {
    return this.walk.uses.referencesToKeep(cluster) <= this.walk.geometry.refcountMax;
  }

  private sentence(cluster: number, counter: number, references: number): string {
    const at = hex(cluster * this.walk.geometry.clusterSize);
    return `cluster ${cluster} at ${at} has refcount ${counter} and ${references} references`;
  }

  /** Logs wrong COPIED flags and counts them as corruptions. */
  reportFlags(): void {
    const { flagFaults, flagSentences, report } = this.walk;
    for (const sentence of flagSentences) this.log(`ERROR ${sentence}`);
    report.corruptions += flagFaults;
  }

  /** Repairs all findings that have a repair. Order: counters, zero entries, COPIED flags, which follow the counters. */
  repairAll(): void {
    const { report, structureFaults } = this.walk;
    if (structureFaults > 0 || this.uncounted > 0) {
      if (!this.rebuild()) {
        this.reportFlags();
        return;
      }
    } else {
      this.raise();
      this.lower();
    }
    for (const at of this.walk.tables.badZeroEntries) {
      // a table that is also data must not change
      if (!this.walk.tables.isOnlyTable(at - (at % this.walk.geometry.clusterSize))) continue;
      this.storeEntry(at, 0, 1);
      report.corruptionsFixed++;
    }
    this.repairFlags();
  }

  /** @returns whether it worked: the counters on disk are the references now */
  private rebuild(): boolean {
    const { report, structureFaults } = this.walk;
    try {
      rebuildRefcounts(this.file, this.header, this.walk, this.log);
    } catch (error) {
      if (!(error instanceof ImgfuseError)) throw error;
      this.log(`The refcount structures cannot be rebuilt: ${describeError(error)}`);
      return false;
    }
    report.corruptionsFixed += structureFaults + this.uncounted + this.lowCount;
    report.leaksFixed += this.walk.unfollowed === 0 ? report.leaks : 0;
    return true;
  }

  /** Lowers the counters of leaked clusters and nothing else. A counter that falls to 1 may need its COPIED flag set. */
  repairLeaks(): void {
    const { report, structureFaults } = this.walk;
    if (structureFaults > 0 && report.leaks > 0) {
      this.log('Leaks are kept: the refcount structures are damaged; check -r all rebuilds them');
      return;
    }
    if (this.lower() && report.corruptions === 0) this.repairFlags();
  }

  private raise(): void {
    if (this.lowCount === 0) return;
    this.storeCounters((cluster, counter, references) => counter < references && this.fits(cluster));
    this.walk.report.corruptionsFixed += this.lowCount;
  }

  /** @returns whether anything was lowered */
  private lower(): boolean {
    const { report, unfollowed } = this.walk;
    if (report.leaks === 0) return false;
    if (unfollowed > 0) {
      this.log(
        `${report.leaks} leaked clusters are kept: ${unfollowed} entries or tables lead nowhere, and they may have meant these clusters`,
      );
      return false;
    }
    // the process that removed the last references may have died before its fdatasync: make the removal durable first (R5)
    this.file.sync();
    this.storeCounters((_cluster, counter, references) => counter > references);
    report.leaksFixed += report.leaks;
    return true;
  }

  /** Sets the counters for which `isWrong` holds to the number of references, one block at a time, and syncs. */
  private storeCounters(isWrong: (cluster: number, counter: number, references: number) => boolean): void {
    const { counters, geometry } = this.walk;
    const { clusterSize, refcountBits, refcountsPerBlock } = geometry;
    const block = new Uint8Array(clusterSize);
    for (const index of counters.indices()) {
      const offset = hostOffset(counters.offsetOf(index));
      let isLoaded = false;
      this.forEachDifference(index, (cluster, counter, references) => {
        if (!isWrong(cluster, counter, references)) return;
        if (!isLoaded) readPadded(this.file, block, 0, clusterSize, offset);
        isLoaded = true;
        const inBlock = cluster - index * refcountsPerBlock;
        writeCounter(block, Math.floor((inBlock * refcountBits) / 8), inBlock, refcountBits, references);
      });
      if (isLoaded) this.file.write(block, 0, clusterSize, offset);
    }
    this.file.sync();
    counters.forget();
  }

  /** Reads the tables of the active layer again and sets their COPIED flags from the counters as they are now. */
  private repairFlags(): void {
    const { geometry, report } = this.walk;
    const { l1Size, l1TableOffset, hasExternalData } = this.header;
    let repaired = 0;
    const seen = new Uint8Array(this.walk.tables.tableCount);
    // false for a table that is also data: it must not change
    let canStore = true;
    const isSingle = (host: number): boolean => this.walk.counters.get(geometry.clusterOf(host)) === 1;
    const setCopied = (at: number, high: number, low: number, single: boolean): void => {
      const copied = isCopied(high);
      if (single === copied) return;
      this.walk.repairable(flagSentence(at, copied));
      if (!canStore) return;
      this.storeEntry(at, single ? (high | QCOW_OFLAG_COPIED) >>> 0 : (high & ~QCOW_OFLAG_COPIED) >>> 0, low);
      repaired++;
    };
    this.forEachEntry(l1TableOffset, l1Size * 8, 8, (at, high, low) => {
      const table = offsetOf(high, low);
      if (!this.walk.uses.isCluster(table)) return;
      canStore = this.walk.isL1Alone;
      setCopied(at, high, low, isSingle(table));
      const place = this.walk.tables.placeOf(table);
      if (seen[place] !== 0 || this.walk.holes.isHole(table, geometry.clusterSize)) return;
      seen[place] = 1;
      canStore = this.walk.tables.isOnlyTable(table);
      this.forEachEntry(table, geometry.clusterSize, geometry.l2EntryBytes, (entry, entryHigh, entryLow) => {
        const host = offsetOf(entryHigh, entryLow);
        if (isCompressed(entryHigh)) setCopied(entry, entryHigh, entryLow, false);
        else if (hasExternalData)
          setCopied(entry, entryHigh, entryLow, isCopied(entryHigh) || this.hasDataFileCluster(host, entryLow));
        else if (this.walk.uses.isCluster(host)) setCopied(entry, entryHigh, entryLow, isSingle(host));
      });
    });
    this.file.sync();
    report.corruptionsFixed += repaired;
  }

  /** Whether the entry of an image with an external data file refers to a cluster with data there. */
  private hasDataFileCluster(host: number, low: number): boolean {
    return host !== 0 && (this.header.extendedL2 || (low & QCOW_OFLAG_ZERO) === 0);
  }

  private forEachEntry(
    offset: number,
    length: number,
    entryBytes: number,
    visit: (at: number, high: number, low: number) => void,
  ): void {
    const bytes = new Uint8Array(length);
    const got = this.file.read(bytes, 0, length, hostOffset(offset));
    const view = new DataView(bytes.buffer);
    for (let at = 0; at + 8 <= got; at += entryBytes) visit(offset + at, view.getUint32(at), view.getUint32(at + 4));
  }

  private storeEntry(at: number, high: number, low: number): void {
    const bytes = new Uint8Array(8);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, high);
    view.setUint32(4, low);
    this.file.write(bytes, 0, 8, hostOffset(at));
  }
}
