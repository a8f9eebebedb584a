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

import { hex, hostOffset } from '../../bytes/offsets.ts';
import { describeError } from '../../errors/index.ts';
import { type HostFile, readPadded } from '../../host/host-file.ts';
import type { CheckReport } from '../check-report.ts';
import { flagSentence } from './findings.ts';
import type { Qcow2Header } from './header.ts';
import { rebuildRefcounts } from './rebuild-refcounts.ts';
import { writeCounter } from './refcount.ts';
import { ReferenceWalk, type WalkOptions } from './reference-walk.ts';
import { isCompressed, isCopied, offsetOf, QCOW_OFLAG_COPIED, QCOW_OFLAG_ZERO } from './table.ts';

/** Findings that are logged one by one. */
const MAX_LOGGED = 1000;
/** Leaks that one repair takes back; a hostile file may claim any number. 256 GiB of 64 KiB clusters. */
const MAX_LEAKS = 2 ** 22;

/** Walks everything and compares; nothing is written until a repair is asked for. */
export function examine(file: HostFile, header: Qcow2Header, options: WalkOptions): Check {
  const log = limited(options.log);
  return new Check(file, header, new ReferenceWalk(file, header, { ...options, log }).run(), log);
}

function limited(log: (sentence: string) => void): (sentence: string) => void {
  let logged = 0;
  return (sentence) => {
    logged++;
    if (logged <= MAX_LOGGED) log(sentence);
    else if (logged === MAX_LOGGED + 1) log('Further findings are counted and not printed');
  };
}

export class Check {
  /** runs [start, end) of clusters inside the file whose counter is 0: first clusters and ends in turn */
  readonly freeRuns: number[] = [];
  /** behind the last cluster whose counter is not 0 */
  usedEnd = 0;
  private readonly file: HostFile;
  private readonly header: Qcow2Header;
  private readonly walk: ReferenceWalk;
  private readonly log: (sentence: string) => void;
  /** clusters whose counter can be raised where it is, and those whose counter is too high */
  private readonly low: number[] = [];
  private readonly leaked: number[] = [];
  /** clusters with references that nothing counts */
  private uncounted = 0;

  constructor(file: HostFile, header: Qcow2Header, walk: ReferenceWalk, log: (sentence: string) => void) {
    this.file = file;
    this.header = header;
    this.walk = walk;
    this.log = log;
    this.compare();
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
    let nextBlock = 0;
    for (const block of [...counters.indices()].sort((a, b) => a - b)) {
      if (block !== nextBlock) this.freeRunEnds(nextBlock * refcountsPerBlock);
      this.compareBlock(block * refcountsPerBlock, (block + 1) * refcountsPerBlock);
      nextBlock = block + 1;
    }
    this.freeRunEnds(nextBlock * refcountsPerBlock);
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

  /** Counters of clusters behind the end of the file say nothing: whoever makes the file longer sets them. */
  private compareBlock(start: number, end: number): void {
    const { counters, geometry, report } = this.walk;
    const { counts, fileEnd } = this.walk.uses;
    const blockEnd = Math.min(end, fileEnd / geometry.clusterSize);
    // a table can show millions of blocks that are holes of the file
    const countedEnd = blockEnd > start ? counters.usedEnd(start / geometry.refcountsPerBlock) : start;
    const usedEnd = Math.max(counts.usedEnd(start, end), Math.min(countedEnd, blockEnd));
    for (let cluster = start; cluster < usedEnd; cluster++) {
      const references = counts.get(cluster);
      const counter = counters.get(cluster);
      if (counter === 0) {
        if (this.freeRuns.length % 2 === 0) this.freeRuns.push(cluster);
      } else {
        this.freeRunEnds(cluster);
        this.usedEnd = cluster + 1;
      }
      if (counter === references) continue;
      if (counter < references) {
        if (this.canCount(cluster, this.sentence(cluster, counter, references))) this.low.push(cluster);
      } else {
        if (report.leaks++ <= MAX_LOGGED) this.log(`Leaked: ${this.sentence(cluster, counter, references)}`);
        if (this.leaked.length < MAX_LEAKS) this.leaked.push(cluster);
      }
    }
    if (usedEnd < end && this.freeRuns.length % 2 === 0) this.freeRuns.push(usedEnd);
  }

  /** Notes a counter that is too low. @returns whether a repair can say how many references there are */
  private canCount(cluster: number, sentence: string): boolean {
    const { geometry } = this.walk;
    if (this.walk.uses.referencesToKeep(cluster) > geometry.refcountMax) {
      this.walk.unrepairable(`${sentence}, more than counters of ${geometry.refcountBits} bits can say`);
      return false;
    }
    this.walk.repairable(sentence);
    return true;
  }

  /** Free clusters follow each other in `freeRuns` up to `end`, as far as the file goes. */
  private freeRunEnds(end: number): void {
    if (this.freeRuns.length % 2 === 0) return;
    const fileClusters = this.walk.uses.fileEnd / this.walk.geometry.clusterSize;
    if (this.freeRuns.at(-1)! >= fileClusters) this.freeRuns.pop();
    else this.freeRuns.push(Math.min(end, fileClusters));
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
      this.log(`The refcount structures cannot be rebuilt: ${describeError(error)}`);
      return false;
    }
    report.corruptionsFixed += structureFaults + this.uncounted + this.low.length;
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
    const { report } = this.walk;
    this.storeCounters(this.low);
    report.corruptionsFixed += this.low.length;
  }

  /** @returns whether anything was lowered */
  private lower(): boolean {
    const { report, unfollowed } = this.walk;
    if (this.leaked.length === 0) return false;
    if (unfollowed > 0) {
      this.log(
        `${this.leaked.length} leaked clusters are kept: ${unfollowed} entries or tables lead nowhere, and what they meant may be among them`,
      );
      return false;
    }
    // that nothing refers to them may not be durable yet: who removed the references may have ended before a fdatasync (R5)
    this.file.sync();
    this.storeCounters(this.leaked);
    report.leaksFixed += this.leaked.length;
    return true;
  }

  /** Sets counters to the number of references, a block at a time, and makes them durable. */
  private storeCounters(clusters: readonly number[]): void {
    if (clusters.length === 0) return;
    const { counters, geometry } = this.walk;
    const { counts } = this.walk.uses;
    const { clusterSize, refcountBits, refcountsPerBlock } = geometry;
    const block = new Uint8Array(clusterSize);
    for (let i = 0; i < clusters.length; ) {
      const index = Math.floor(clusters[i]! / refcountsPerBlock);
      const offset = hostOffset(counters.offsetOf(index));
      readPadded(this.file, block, 0, clusterSize, offset);
      for (; i < clusters.length && Math.floor(clusters[i]! / refcountsPerBlock) === index; i++) {
        const inBlock = clusters[i]! % refcountsPerBlock;
        writeCounter(block, Math.floor((inBlock * refcountBits) / 8), inBlock, refcountBits, counts.get(clusters[i]!));
      }
      this.file.write(block, 0, clusterSize, offset);
    }
    this.file.sync();
    counters.forget();
  }

  /** Goes through the active layer again, with the counters as they are now. */
  private mendFlags(): void {
    const { geometry, report } = this.walk;
    const { l1Size, l1TableOffset, hasExternalData } = this.header;
    let mended = 0;
    const seen = new Set<number>();
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
      if (seen.has(table)) return;
      seen.add(table);
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
