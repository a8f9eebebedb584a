// Check and repair of a qcow image: which places of the file are referred to, by what, and whether that can be true.
//
//   L1 or L2 entry that is no place of the file     corruption; repaired by setting it to 0 (its old value is reported)
//   cluster with two references, one of them plain  corruption; repaired by copying it, so that both keep their data; of a table
//                                                   and data, the table is the copy, since its entries change
//   cluster without a reference that is not zeros   leak; reclaimed when the image is opened read-write and closed
//
// Compressed clusters may share host clusters with each other. Invariant: without repair nothing is written, and a repair writes an
// entry only after what it will refer to is durable.

import { combine, hexWords, writeU64BE } from '../../bytes/endian.ts';
import { bytesOfName } from '../../bytes/names.ts';
import { hex, hostOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../check-report.ts';
import type { CheckOptions } from '../image-format.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import type { QcowHeader } from './header.ts';
import { compressedLength, compressedOffset, isCompressed } from './table.ts';
import { forEachEntry } from './table-parts.ts';
import { countLeaks } from './unused.ts';

const COPY_BYTES = 1024 * 1024;

export interface QcowCheck {
  readonly report: CheckReport;
  /** host clusters in use, the header and all tables included */
  readonly used: SparseBitmap;
  /** of the corruptions, those where two entries share a cluster */
  readonly doubleReferences: number;
  /** clusters and tables that do not begin at the start of a host cluster: legal, and no program makes them */
  readonly unaligned: number;
}

/** Walks every table. With repair 'all' each corruption is repaired on the way; leaks are only counted. */
export function checkTables(file: HostFile, header: QcowHeader, options: CheckOptions): QcowCheck {
  return new TableWalk(file, header, options).run();
}

/** Where an entry leads. */
interface DataPlace {
  readonly start: number;
  readonly length: number;
}

/** Where an entry stands. */
interface EntryPlace {
  /** host offset */
  readonly at: number;
  readonly says: string;
}

class TableWalk {
  private readonly file: HostFile;
  private readonly header: QcowHeader;
  private readonly options: CheckOptions;
  private readonly geometry: Geometry;
  private readonly report: CheckReport = emptyCheckReport('qcow');
  private readonly used: SparseBitmap;
  /** of those, the clusters with compressed data, which others like it may share */
  private readonly packed = new SparseBitmap();
  /** clusters of L2 tables that hold data, too; only of a repair */
  private readonly contested = new SparseBitmap();
  private fileEnd: number;
  /** before copies were put behind it: an entry that leads beyond this leads to nothing, and never to a copy */
  private readonly foundEnd: number;
  private doubleReferences = 0;
  private unaligned = 0;
  private previousData = 0;

  constructor(file: HostFile, header: QcowHeader, options: CheckOptions) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.geometry = new Geometry(header);
    this.fileEnd = roundUp(file.size(), this.geometry.clusterSize);
    this.foundEnd = this.fileEnd;
    this.used = new SparseBitmap(this.fileEnd / this.geometry.clusterSize);
  }

  run(): QcowCheck {
    const { file, geometry, header, options, report, used } = this;
    if (options.repair === 'all') this.findContested();
    this.mark(0, geometry.l1End);
    if (header.backingName !== null) this.mark(header.backingOffset, bytesOfName(header.backingName).length);
    report.totalClusters = geometry.clustersFor(header.size);
    const tables = this.checkL1();
    for (const [position, { l1Index, table }] of tables.entries()) {
      this.checkL2(l1Index, table);
      options.progress?.((position + 1) / tables.length);
    }
    // qemu-img fills the last sector of the L1 table up, which is no leak
    this.mark(0, header.l1TableOffset + roundUp(geometry.l1Entries * ENTRY_BYTES, SECTOR_BYTES));
    report.leaks = countLeaks(file, used, geometry.clusterSize);
    if (report.leaks > 0) options.log(`Leaked clusters: ${report.leaks} of the file hold data and are not referred to`);
    if (report.corruptionsFixed > 0) file.sync();
    return { report, used, doubleReferences: this.doubleReferences, unaligned: this.unaligned };
  }

  /** Which tables must be copied before their entries are repaired. */
  private findContested(): void {
    const { geometry } = this;
    const { tableBytes } = geometry;
    const tables = new Set<number>();
    const places = new SparseBitmap();
    forEachEntry(this.file, this.header.l1TableOffset, geometry.l1Entries * ENTRY_BYTES, (_, high, low) => {
      const table = combine(high, low);
      if (!this.isTable(table)) return;
      tables.add(table);
      this.forEachCluster(table, tableBytes, (cluster) => void places.add(cluster));
    });
    for (const table of tables) {
      forEachEntry(this.file, table, tableBytes, (_, high, low) => {
        const data = this.placeOf(high, low);
        if (!this.isData(high, data, table)) return;
        this.forEachCluster(data.start, data.length, (cluster) => {
          if (places.has(cluster)) this.contested.add(cluster);
        });
      });
    }
  }

  /** Every L2 table that can be walked. */
  private checkL1(): { l1Index: number; table: number }[] {
    const { geometry, header } = this;
    const { clusterSize, tableBytes } = geometry;
    const found: { l1Index: number; table: number }[] = [];
    const bytes = geometry.l1Entries * ENTRY_BYTES;
    forEachEntry(this.file, header.l1TableOffset, bytes, (l1Index, high, low) => {
      const at = header.l1TableOffset + l1Index * ENTRY_BYTES;
      const place = { at, says: `L1 entry ${l1Index} at offset ${hex(at)}` };
      const entry = combine(high, low);
      if (!this.isTable(entry)) {
        this.dropEntry(place, `${hexWords(high, low)} is no place for an L2 table in this file`);
        return;
      }
      let table = entry;
      if (this.isTaken(entry, tableBytes)) {
        const copy = this.copyEntry(place, entry, tableBytes, `the table at ${hex(entry)} is used twice`);
        if (copy === null) return;
        table = copy;
      }
      if (table % clusterSize !== 0) this.unaligned++;
      this.mark(table, tableBytes);
      found.push({ l1Index, table });
    });
    return found;
  }

  private isTaken(table: number, length: number): boolean {
    let isTaken = false;
    this.forEachCluster(table, length, (cluster) => {
      if (this.used.has(cluster) || this.contested.has(cluster)) isTaken = true;
    });
    return isTaken;
  }

  private checkL2(l1Index: number, table: number): void {
    const { geometry } = this;
    const { clusterSize, tableBytes, l2Entries } = geometry;
    forEachEntry(this.file, table, tableBytes, (index, high, low) => {
      const at = table + index * ENTRY_BYTES;
      const guest = (l1Index * l2Entries + index) * clusterSize;
      const place = { at, says: `L2 entry ${index} at offset ${hex(at)} (guest offset ${hex(guest)})` };
      const value = hexWords(high, low);
      const data = this.placeOf(high, low);
      if (!this.isData(high, data, table)) this.dropEntry(place, `${value} is no place of this file`);
      else if (isCompressed(high)) this.checkCompressed(place, data, high);
      else this.checkPlain(place, data.start);
    });
  }

  private checkPlain(place: EntryPlace, host: number): void {
    const { clusterSize } = this.geometry;
    if (host % clusterSize !== 0) this.unaligned++;
    if (!this.isFree(host, clusterSize, false)) {
      const says = `the cluster at ${hex(host)} is used twice`;
      const copy = this.copyEntry(place, host, clusterSize, says);
      if (copy !== null) this.countData(copy);
      return;
    }
    this.mark(host, clusterSize);
    this.countData(host);
  }

  private countData(host: number): void {
    const { clusterSize } = this.geometry;
    const { report } = this;
    report.allocatedClusters++;
    if (this.previousData !== 0 && host !== this.previousData + clusterSize) report.fragmentedClusters++;
    this.previousData = host;
  }

  private checkCompressed(place: EntryPlace, { start, length }: DataPlace, high: number): void {
    const { report } = this;
    report.allocatedClusters++;
    report.compressedClusters++;
    report.fragmentedClusters++;
    if (this.isFree(start, length, true)) {
      this.mark(start, length);
      this.forEachCluster(start, length, (cluster) => void this.packed.add(cluster));
      return;
    }
    const says = `the compressed data at ${hex(start)} lies in a cluster that is used for something else`;
    const flags = high & ~(2 ** (31 - this.geometry.clusterBits) - 1);
    // the bits of the length stay
    this.copyEntry(place, start, length, says, flags >>> 0);
  }

  /** Where an entry leads, and how many bytes there it stands for. */
  private placeOf(high: number, low: number): DataPlace {
    const { clusterBits } = this.geometry;
    if (!isCompressed(high)) return { start: combine(high, low), length: this.geometry.clusterSize };
    return { start: compressedOffset(high, low, clusterBits), length: compressedLength(high, clusterBits) };
  }

  /** As the mapper judges it: plain data must begin in the file, at a sector, and need not end there. */
  private isData(high: number, { start, length }: DataPlace, table: number): boolean {
    const { l1End, tableBytes } = this.geometry;
    if (isCompressed(high)) return length > 0 && start >= l1End && start + length <= this.foundEnd;
    const isInside = start % SECTOR_BYTES === 0 && start >= l1End && start < this.foundEnd;
    return isInside && (start + length <= table || start >= table + tableBytes);
  }

  private isTable(entry: number): boolean {
    const { l1End, tableBytes } = this.geometry;
    return entry % SECTOR_BYTES === 0 && entry >= l1End && entry + tableBytes <= this.foundEnd;
  }

  /** @param mayShare compressed data shares clusters with other compressed data */
  private isFree(start: number, length: number, mayShare: boolean): boolean {
    let isFree = true;
    this.forEachCluster(start, length, (cluster) => {
      if (this.used.has(cluster) && !(mayShare && this.packed.has(cluster))) isFree = false;
    });
    return isFree;
  }

  private mark(start: number, length: number): void {
    const { clusterSize } = this.geometry;
    this.forEachCluster(start, length, (cluster) => void this.used.add(cluster));
    this.report.imageEndOffset = Math.max(this.report.imageEndOffset, roundUp(start + length, clusterSize));
  }

  private forEachCluster(start: number, length: number, visit: (cluster: number) => void): void {
    const { clusterSize } = this.geometry;
    const end = Math.ceil((start + length) / clusterSize);
    for (let cluster = Math.floor(start / clusterSize); cluster < end; cluster++) visit(cluster);
  }

  private dropEntry({ at, says }: EntryPlace, what: string): void {
    this.report.corruptions++;
    if (this.options.repair !== 'all') {
      this.options.log(`ERROR ${says}: ${what}`);
      return;
    }
    this.writeEntry(at, 0, 0);
    this.report.corruptionsFixed++;
    this.options.log(`Repaired ${says}: ${what}; it is 0 now`);
  }

  /** Gives the second user its own copy at the end of the file. @returns its offset, or null */
  private copyEntry({ at, says }: EntryPlace, from: number, length: number, what: string, flags = 0): number | null {
    this.report.corruptions++;
    this.doubleReferences++;
    if (this.options.repair !== 'all') {
      this.options.log(`ERROR ${says}: ${what}`);
      return null;
    }
    const to = this.fileEnd;
    this.fileEnd = roundUp(to + length, this.geometry.clusterSize);
    this.file.truncate(this.fileEnd);
    const buffer = new Uint8Array(Math.min(COPY_BYTES, length));
    for (let done = 0; done < length; done += buffer.length) {
      const got = this.file.read(buffer, 0, Math.min(buffer.length, length - done), hostOffset(from + done));
      this.file.write(buffer, 0, got, hostOffset(to + done));
    }
    this.file.sync();
    this.writeEntry(at, to, flags);
    this.mark(to, length);
    this.report.corruptionsFixed++;
    this.options.log(`Repaired ${says}: ${what}; the second user has a copy at ${hex(to)} now`);
    return to;
  }

  /** @param flags or'ed to the high word */
  private writeEntry(at: number, value: number, flags: number): void {
    const bytes = new Uint8Array(ENTRY_BYTES);
    const view = new DataView(bytes.buffer);
    writeU64BE(view, 0, value);
    view.setUint32(0, (view.getUint32(0, false) | flags) >>> 0, false);
    this.file.write(bytes, 0, ENTRY_BYTES, hostOffset(at));
  }
}
