// What an image of tables says about a range of its disk: map(), mapStatus() and mapContent() of ReadableImage, each in one
// hold of the metadata lock.

import type { GuestOffset } from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { Extent, ReadableImage, StatusRun } from '../image-format.ts';
import { mapsAsZeros } from './backing.ts';
import { extentOf, type StatusScan, statusOf } from './status-scan.ts';

export interface ImageMapParts {
  readonly lock: Mutex;
  readonly scan: StatusScan;
  readonly backing: ReadableImage | null;
  /** the bytes at a host offset are the guest's as they are */
  readonly showsPlaces: boolean;
  /** the file that has the guest's data; null: the image file */
  readonly dataFile: HostFile | null;
}

export class ImageMap {
  readonly backing: ReadableImage | null;
  private readonly parts: ImageMapParts;

  constructor(parts: ImageMapParts) {
    this.backing = parts.backing;
    this.parts = parts;
  }

  map(offset: GuestOffset, length: number): Extent {
    const { dataFile, lock, scan, showsPlaces } = this.parts;
    const extent = lock.run(() => extentOf(offset, scan.scan(offset, length, 'extent'), showsPlaces));
    return dataFile === null || extent.status !== 'data' ? extent : { ...extent, holder: dataFile };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.look(offset, length, 'status');
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.look(offset, length, 'content');
  }

  private look(offset: GuestOffset, length: number, mode: 'status' | 'content'): StatusRun {
    const { lock, scan } = this.parts;
    const run = lock.run(() => statusOf(scan.scan(offset, length, mode)));
    // the caller goes on with a search that may be long
    if (scan.isCut) lock.giveWay();
    return run;
  }

  /** Known to read as zeros, here and below, from metadata alone; for a range that this thread has reserved. */
  readsAsZeros(offset: GuestOffset, length: number): boolean {
    return mapsAsZeros(this, offset, length);
  }
}
