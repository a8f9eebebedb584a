// Check and repair of a qcow2 image: what the walk counted is compared with the counters.
//
//   counter below the references   corruption; repaired by raising it
//   counter above the references   leak; repaired by lowering it, unless something could not be followed
//   refcount structures unusable   corruption; repaired by new ones at the end of the file (rebuild-refcounts.ts)
//   COPIED flag wrong              corruption; repaired by setting it as the counter says
//   zero entry with a bad place    corruption; repaired by dropping the place, which holds no data
//   other entry that is no cluster corruption; not repaired: nothing safe can be put in its place
//
// Invariant: without repair nothing is written. Counters are raised, durable, lowered, durable, and flags follow, so that a
// crash in between leaves what the next check repairs. Nothing is freed that an unreadable table may refer to.

import { hex, hostOffset } from '../../../bytes/offsets.ts';
import { describeError, ImgfuseError } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import { type CheckReport, limitedLog, MAX_FINDINGS } from '../../check-report.ts';
import type { Qcow2Header } from '../header/header.ts';
import { writeCounter } from '../refcount.ts';
import { isCompressed, isCopied, offsetOf, QCOW_OFLAG_COPIED, QCOW_OFLAG_ZERO } from '../table.ts';
import { flagSentence } from './findings.ts';
import { rebuildRefcounts } from './rebuild-refcounts.ts';
import { ReferenceWalk, type WalkOptions } from './reference-walk.ts';

/** Walks everything and compares; nothing is written until a repair is asked for. */
export function examine(file: HostFile, header: Qcow2Header, options: WalkOptions): Check {
  const log = limitedLog(options.log);
  return new Check(file, header, new ReferenceWalk(file, header, { ...options, log }).run(), log);
}

export class Check {
  /** behind the last cluster whose counter is not 0 */
  usedEnd = 0;
  private readonly file: HostFile;
  private readonly header: Qcow2Header;
  private readonly walk: ReferenceWalk;
  private readonly log: (sentence: string) => void;
  /** how many counters can be raised where they are; which ones is found again by who raises them, as with leaks */
  private lowCount = 0;
  /** clusters with references that nothing counts */
  private uncounted = 0;

  constructor(file: HostFile, header: Qcow2Header, walk: ReferenceWalk, log: (sentence: string) => void) {
    this.file = file;
    this.header = header;
    this.walk = walk;
    this.log = log;
    this.compare();
  }

  /** The L1 table was cut off and made whole, as far as zeros can: clusters that it may have referred to are kept as leaks. */
  wasCut(): void {
    this.walk.report.corruptions++;
    this.walk.report.corruptionsFixed++;
    this.walk.unfollowed++;
  }

  /** What a write would make worse: everything but leaks and flags that are clear for nothing. */
  get dangers(): number {
    return this.walk.report.corruptions - this.walk.harmlessFlags;
  }

  /** The flags count once `reportFlags` or a repair was called. */
  get report(): CheckReport {
    return this.walk.report;
  }

  /** Whether repairAll leaves nothing wrong, as far as can be said before it is tried. */
  get isRepairable(): boolean {
    // where a table is data as well, its flags stay as they are
    return this.walk.unrepairableCount === 0 && this.walk.tables.areTablesAlone;
  }

  /** Only where there are counters or references: a sparse file of any length costs what is in it. */
  private compare(): void {
    const { counters, geometry } = this.walk;
    const { counts } = this.walk.uses;
    const { refcountsPerBlock } = geometry;
    for (const block of counters.indices()) {
      this.compareBlock(block * refcountsPerBlock, (block + 1) * refcountsPerBlock);
    }
    for (const { start, end } of counts.ranges()) this.findUncounted(start, end);
  }

  /** References to clusters from `start` to `end` that have no refcount block. */
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

  private compareBlock(start: number, end: number): void {
    const { counters, report } = this.walk;
    const { counts } = this.walk.uses;
    const comparedEnd = this.comparedEnd(start, end);
    for (let cluster = start; cluster < comparedEnd; cluster++) {
      const references = counts.get(cluster);
      const counter = counters.get(cluster);
      if (counter !== 0) this.usedEnd = cluster + 1;
      if (counter === references) continue;
      if (counter < references) {
        if (this.canCount(cluster, this.sentence(cluster, counter, references))) this.lowCount++;
      } else if (report.leaks++ <= MAX_FINDINGS) this.log(`Leaked: ${this.sentence(cluster, counter, references)}`);
    }
  }

  /**
   * Behind the last cluster of a block, `start` to `end`, that has references or a counter. Counters of clusters behind the
   * end of the file say nothing: whoever makes the file longer sets them.
   */
  private comparedEnd(start: number, end: number): number {
    const { counters, geometry, uses } = this.walk;
    const blockEnd = Math.min(end, uses.fileEnd / geometry.clusterSize);
    // a table can show millions of blocks that are holes of the file
    const countedEnd = blockEnd > start ? counters.usedEnd(start / geometry.refcountsPerBlock) : start;
    return Math.max(uses.counts.usedEnd(start, end), Math.min(countedEnd, blockEnd));
  }

  /** Clusters below `usedEnd` that a counter says are free. */
  forEachFreeRun(visit: (start: number, count: number) => void): void {
    this.walk.counters.forEachFreeRun(this.usedEnd, visit);
  }

  /** Notes a counter that is too low. @returns whether a repair can say how many references there are */
  private canCount(cluster: number, sentence: string): boolean {
    if (!this.fits(cluster)) {
      this.walk.unrepairable(`${sentence}, more than counters of ${this.walk.geometry.refcountBits} bits can say`);
      return false;
    }
    this.walk.repairable(sentence);
    return true;
  }

  /** A counter can say how many references there are. */
  private fits(cluster: number): boolean {
    return this.walk.uses.referencesToKeep(cluster) <= this.walk.geometry.refcountMax;
  }

  private sentence(cluster: number, counter: number, references: number): string {
    const at = hex(cluster * this.walk.geometry.clusterSize);
    return `cluster ${cluster} at ${at} has refcount ${counter} and ${references} references`;
  }

  reportFlags(): void {
    const { flagFaults, flagSentences, report } = this.walk;
    for (const sentence of flagSentences) this.log(`ERROR ${sentence}`);
    report.corruptions += flagFaults;
  }

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
    for (const at of this.walk.tables.badZeroes) {
      // what is data as well is left as it is
      if (!this.walk.tables.isOnlyTable(at - (at % this.walk.geometry.clusterSize))) continue;
      this.storeEntry(at, 0, 1);
      report.corruptionsFixed++;
    }
    this.mendFlags();
  }

  /** @returns whether the counters are true now */
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

  /** Leaks alone, where the counters can be trusted otherwise. A counter that goes down to 1 may ask for a COPIED flag. */
  repairLeaks(): void {
    const { report, structureFaults } = this.walk;
    if (structureFaults > 0 && report.leaks > 0) {
      this.log('Leaks are kept: the refcount structures are damaged; check -r all rebuilds them');
      return;
    }
    if (this.lower() && report.corruptions === 0) this.mendFlags();
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
        `${report.leaks} leaked clusters are kept: ${unfollowed} entries or tables lead nowhere, and what they meant may be among them`,
      );
      return false;
    }
    // that nothing refers to them may not be durable yet: who removed the references may have ended before a fdatasync (R5)
    this.file.sync();
    this.storeCounters((_cluster, counter, references) => counter > references);
    report.leaksFixed += report.leaks;
    return true;
  }

  /** Sets the counters that are wrong in this way to the number of references, a block at a time, and makes them durable. */
  private storeCounters(isWrong: (cluster: number, counter: number, references: number) => boolean): void {
    const { counters, geometry } = this.walk;
    const { counts } = this.walk.uses;
    const { clusterSize, refcountBits, refcountsPerBlock } = geometry;
    const block = new Uint8Array(clusterSize);
    for (const index of counters.indices()) {
      const start = index * refcountsPerBlock;
      const end = this.comparedEnd(start, start + refcountsPerBlock);
      const offset = hostOffset(counters.offsetOf(index));
      let isLoaded = false;
      for (let cluster = start; cluster < end; cluster++) {
        const references = counts.get(cluster);
        if (!isWrong(cluster, counters.get(cluster), references)) continue;
        if (!isLoaded) readPadded(this.file, block, 0, clusterSize, offset);
        isLoaded = true;
        const inBlock = cluster - start;
        writeCounter(block, Math.floor((inBlock * refcountBits) / 8), inBlock, refcountBits, references);
      }
      if (isLoaded) this.file.write(block, 0, clusterSize, offset);
    }
    this.file.sync();
    counters.forget();
  }

  /** Goes through the active layer again, with the counters as they are now. */
  private mendFlags(): void {
    const { geometry, report } = this.walk;
    const { l1Size, l1TableOffset, hasExternalData } = this.header;
    let mended = 0;
    const seen = new Uint8Array(this.walk.tables.tableCount);
    // where a table is data as well, nothing of it is changed
    let canStore = true;
    const isSingle = (host: number): boolean => this.walk.counters.get(geometry.clusterOf(host)) === 1;
    const mend = (at: number, high: number, low: number, single: boolean): void => {
      const copied = isCopied(high);
      if (single === copied) return;
      this.walk.repairable(flagSentence(at, copied));
      if (!canStore) return;
      this.storeEntry(at, single ? (high | QCOW_OFLAG_COPIED) >>> 0 : (high & ~QCOW_OFLAG_COPIED) >>> 0, low);
      mended++;
    };
    this.forEachEntry(l1TableOffset, l1Size * 8, 8, (at, high, low) => {
      const table = offsetOf(high, low);
      if (!this.walk.uses.isCluster(table)) return;
      canStore = this.walk.isL1Alone;
      mend(at, high, low, isSingle(table));
      const place = this.walk.tables.placeOf(table);
      if (seen[place] !== 0 || this.walk.holes.isHole(table, geometry.clusterSize)) return;
      seen[place] = 1;
      canStore = this.walk.tables.isOnlyTable(table);
      this.forEachEntry(table, geometry.clusterSize, geometry.l2EntryBytes, (entry, entryHigh, entryLow) => {
        const host = offsetOf(entryHigh, entryLow);
        if (isCompressed(entryHigh)) mend(entry, entryHigh, entryLow, false);
        else if (hasExternalData)
          mend(entry, entryHigh, entryLow, isCopied(entryHigh) || this.isPlaced(host, entryLow));
        else if (this.walk.uses.isCluster(host)) mend(entry, entryHigh, entryLow, isSingle(host));
      });
    });
    this.file.sync();
    report.corruptionsFixed += mended;
  }

  /** The entry of a data file has a place there with data in it. */
  private isPlaced(host: number, low: number): boolean {
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
