// Check and repair of an image of one file: which host clusters are referred to, by what, and whether that can be true.
//
//   entry that leads out of the file, or before the first cluster   corruption; a repair of all takes the link away, and says its value
//   entry beside the grid of clusters, cluster with two entries     corruption; repaired by a copy, so that all keep their data
//   last cluster cut by the end of the file                         corruption; repaired with zeros, which is what a read of it gives
//   "in use" in the header                                          corruption; a repair of all closes the image
//   cluster without an entry, file longer than its clusters         leak; reclaimed when the image is opened for writing and closed
//
// The clusters of a format extension are in use. Invariant: without repair nothing is written, and a repair writes an entry only after
// what it will refer to is durable.

import { guestCluster, hex, hostOffset, roundDown } from '../../../bytes/offsets.ts';
import { SparseBitmap } from '../../../bytes/sparse-bitmap.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import { MAX_TRACKED_CLUSTERS } from '../../mapped/free-clusters.ts';
import { copyBytes } from '../../mapped/space/copy-bytes.ts';
import { HEADER_BYTES, type ParallelsHeader } from '../header.ts';
import { readExtension } from './extension.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';
import { type Grid, gridOf } from './grid.ts';
import { entryAt } from './table.ts';

const CHUNK_BYTES = 64 * 1024;

export interface BatCheck {
  readonly report: CheckReport;
  readonly grid: Grid;
  /** host clusters in use */
  readonly used: SparseBitmap;
  /** host offset behind the last of them */
  readonly end: number;
  /** of the corruptions: entries that lead nowhere, and those of clusters that are used twice or lie beside the grid */
  readonly badEntries: number;
  readonly doubleReferences: number;
}

/** Walks the BAT. With repair 'all' each of its corruptions is repaired on the way; leaks are only counted. */
export function checkBat(file: HostFile, header: ParallelsHeader, options: CheckOptions): BatCheck {
  return new BatWalk(file, header, options).run();
}

class BatWalk {
  private readonly file: HostFile;
  private readonly header: ParallelsHeader;
  private readonly options: CheckOptions;
  private readonly grid: Grid;
  private readonly geometry: Geometry;
  private readonly report: CheckReport = emptyCheckReport('parallels');
  private readonly used: SparseBitmap;
  /** the first cluster of the grid that may hold data */
  private readonly first: number;
  private fileSize: number;
  private end: number;
  private badEntries = 0;
  private doubleReferences = 0;
  private previous = 0;

  constructor(file: HostFile, header: ParallelsHeader, options: CheckOptions) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.grid = gridOf(file, header);
    this.geometry = this.grid.geometry;
    this.first = this.geometry.hostClusterOf(this.grid.dataStart);
    this.fileSize = file.size();
    this.end = this.grid.dataStart;
    this.used = new SparseBitmap(Math.max(0, this.geometry.hostClusterFrom(this.fileSize)));
  }

  run(): BatCheck {
    const { grid, header, options, report, used } = this;
    report.totalClusters = this.geometry.clustersFor(header.diskBytes);
    for (const place of readExtension(this.file, header)?.places ?? []) {
      if (this.isInside(place) && this.geometry.isAligned(place)) this.use(place);
    }
    const isRepair = options.repair === 'all';
    this.forEachEntry((cluster, place) => this.visit(cluster, place, isRepair));
    if (isRepair && this.badEntries + this.doubleReferences > 0) this.repairEntries();
    this.checkEnd(isRepair);
    this.countLeaks();
    report.imageEndOffset = this.end;
    const { badEntries, doubleReferences, end } = this;
    return { report, grid, used, end, badEntries, doubleReferences };
  }

  /** @param isQuiet the repair says what it does with the entry */
  private visit(cluster: number, place: number, isQuiet: boolean): void {
    const { report } = this;
    const wrong = this.wrongWith(place);
    if (wrong === null) report.allocatedClusters++;
    if (wrong === null && this.previous > 0 && place !== this.previous + this.geometry.clusterSize) {
      report.fragmentedClusters++;
    }
    if (wrong === null) this.previous = place;
    const isDouble = wrong === null && !(this.geometry.isAligned(place) && this.use(place));
    if (wrong === null && !isDouble) return;
    report.corruptions++;
    if (isDouble) this.doubleReferences++;
    else this.badEntries++;
    if (!isQuiet) this.options.log(`ERROR ${this.about(cluster, wrong ?? this.doubleAt(place))}`);
  }

  private doubleAt(place: number): string {
    const is = this.geometry.isAligned(place) ? 'is used twice' : 'lies beside the grid of the clusters';
    return `the cluster at ${hex(place)} ${is}`;
  }

  private wrongWith(place: number): string | null {
    return this.isInside(place) ? null : `no cluster of this file is at ${hex(place)}`;
  }

  private isInside(place: number): boolean {
    return place >= this.grid.dataStart && place < this.fileSize;
  }

  /** @returns false if it is in use already */
  private use(place: number): boolean {
    this.end = Math.max(this.end, place + this.geometry.clusterSize);
    return this.used.add(this.geometry.hostClusterOf(place));
  }

  /** The second walk knows which clusters are in use, so it can put copies behind all of them. */
  private repairEntries(): void {
    const { file, geometry, options, report } = this;
    const { clusterSize } = geometry;
    const seen = new SparseBitmap();
    this.forEachEntry((cluster, place) => {
      const wrong = this.wrongWith(place);
      if (wrong !== null) {
        this.writeEntry(cluster, 0);
        options.log(`Repaired ${this.about(cluster, wrong)}; it has no cluster now and reads as zeros`);
      } else if (geometry.isAligned(place) && seen.add(geometry.hostClusterOf(place))) {
        return;
      } else {
        const copy = geometry.hostStartOf(geometry.hostClusterFrom(Math.max(this.end, file.size())));
        const entry = geometry.entryFor(copy);
        if (entry === null) {
          options.log(`ERROR ${this.about(cluster, this.doubleAt(place))}; no entry can lead to a copy`);
          return;
        }
        file.truncate(copy + clusterSize);
        copyBytes(file, hostOffset(place), copy, clusterSize);
        file.sync();
        this.writeEntry(cluster, entry);
        this.use(copy);
        options.log(`Repaired ${this.about(cluster, this.doubleAt(place))}; it has a copy at ${hex(copy)} now`);
      }
      report.corruptionsFixed++;
    });
    file.sync();
    this.fileSize = file.size();
  }

  private checkEnd(isRepair: boolean): void {
    const { end, file, fileSize, grid, options, report } = this;
    if (end === grid.dataStart || fileSize >= end) return;
    const what = `the last cluster: the file of ${fileSize} bytes ends inside it, at ${end - fileSize} bytes before its end`;
    report.corruptions++;
    if (!isRepair) {
      options.log(`ERROR ${what}`);
      return;
    }
    file.truncate(end);
    file.sync();
    report.corruptionsFixed++;
    options.log(`Repaired ${what}; the rest of it reads as zeros`);
  }

  private countLeaks(): void {
    const { file, first, geometry, options, report, used } = this;
    const clusters = Math.max(0, Math.min(geometry.hostClusterFrom(file.size()), MAX_TRACKED_CLUSTERS) - first);
    report.leaks = Math.max(0, clusters - used.count);
    if (report.leaks === 0) return;
    options.log(
      `Leaked clusters: ${report.leaks}; the file has ${clusters}, and ${clusters - report.leaks} are referred to`,
    );
  }

  /** Visits the entries that are not 0, in order. Entries behind the end of the disk are entries, too. */
  private forEachEntry(visit: (cluster: number, place: number) => void): void {
    const { file, geometry, header, options } = this;
    const bytes = header.batEntries * ENTRY_BYTES;
    const chunk = new Uint8Array(roundDown(Math.min(CHUNK_BYTES, Math.max(bytes, ENTRY_BYTES)), ENTRY_BYTES));
    const words = new DataView(chunk.buffer);
    for (let start = 0; start < bytes; start += chunk.length) {
      const part = Math.min(chunk.length, bytes - start);
      const got = file.read(chunk, 0, part, hostOffset(HEADER_BYTES + start));
      if (got < part) {
        this.report.checkErrors++;
        options.log(`The BAT ends beyond the file, at offset ${hex(HEADER_BYTES + start + got)}`);
        return;
      }
      for (let at = 0; at < part; at += ENTRY_BYTES) {
        const entry = words.getUint32(at, true);
        if (entry !== 0) visit((start + at) / ENTRY_BYTES, geometry.placeOf(entry));
      }
      options.progress?.((start + part) / bytes);
    }
  }

  private about(cluster: number, what: string): string {
    const guest = this.geometry.startOf(guestCluster(cluster));
    return `BAT entry ${cluster} at offset ${hex(entryAt(cluster))} (guest offset ${hex(guest)}): ${what}`;
  }

  private writeEntry(cluster: number, entry: number): void {
    const bytes = new Uint8Array(ENTRY_BYTES);
    new DataView(bytes.buffer).setUint32(0, entry, true);
    this.file.write(bytes, 0, ENTRY_BYTES, entryAt(cluster));
  }
}
