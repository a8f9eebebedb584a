// A flat extent: bytes of the disk are bytes of its file, from some place on. There is no metadata, so there are no locks and no
// reservations: overlapping requests race as they do on a plain file. What the file lacks at its end reads as zeros.

import { after, type GuestOffset, type HostOffset } from '../../../bytes/offsets.ts';
import { type HostFile, possibleDataBytes, readPadded } from '../../../host/host-file.ts';
import { GuestAccess } from '../../guest-access.ts';
import {
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type SharedImage,
  type StatusRun,
  shareImage,
  type WritableImage,
} from '../../image-format.ts';
import { PlainMap } from '../../plain-map.ts';
import { createWriteTrackerState, WriteTracker } from '../../write-tracker.ts';

/** Granularity of discards that the guest is told: a page of the host. */
const PAGE_BYTES = 4096;

export interface FlatState {
  /** Float64: bytes of the extent */
  readonly size: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
  /** where it begins in its file */
  readonly start: HostOffset;
}

/** @param length bytes of the extent @param start where it begins in its file */
export function createFlatState(length: number, start: HostOffset): FlatState {
  const state = { size: new SharedArrayBuffer(8), tracker: createWriteTrackerState(), start };
  new Float64Array(state.size)[0] = length;
  return state;
}

export class FlatExtent implements WritableImage {
  readonly format = 'flat';
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize = PAGE_BYTES;
  readonly readOnly: boolean;
  readonly backing = null;
  private readonly state: FlatState;
  private readonly size: Float64Array;
  private readonly tracker: WriteTracker;
  private readonly access: GuestAccess;
  private readonly plainMap: PlainMap;

  constructor(file: HostFile, state: FlatState, log: (sentence: string) => void) {
    this.file = file;
    this.files = onlyFile(file);
    this.readOnly = file.readOnly;
    this.state = state;
    const size = new Float64Array(state.size);
    this.size = size;
    this.tracker = new WriteTracker(state.tracker, file, log);
    this.plainMap = new PlainMap(file, state.start);
    this.access = new GuestAccess(file, this.tracker, {
      get virtualSize(): number {
        return size[0]!;
      },
    });
  }

  private at(offset: GuestOffset): HostOffset {
    return after(this.state.start, offset);
  }

  virtualSize(): number {
    return this.size[0]!;
  }

  allocatedBytes(): number {
    return Math.min(possibleDataBytes(this.file), this.virtualSize());
  }

  failure(): string | null {
    return this.tracker.failure();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    readPadded(this.file, target, targetOffset, length, this.at(offset));
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    this.change(offset, length, () => this.file.write(source, sourceOffset, length, this.at(offset)));
  }

  canDiscard(): boolean {
    return !this.readOnly && this.file.punchesHoles();
  }

  discard(offset: GuestOffset, length: number): void {
    this.change(offset, length, () => this.file.punchHole(this.at(offset), length));
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    this.change(offset, length, () => this.file.zeroRange(this.at(offset), length));
  }

  preallocate(offset: GuestOffset, length: number): void {
    this.change(offset, length, () => this.file.allocateRange(this.at(offset), length));
  }

  private change(offset: GuestOffset, length: number, action: () => void): void {
    this.access.assertWritable();
    this.access.assertInside(offset, length);
    try {
      action();
    } finally {
      this.tracker.noteWrite();
    }
  }

  /** A flat extent has no parent. */
  copyUp(): void {}

  /**
   * The only extent of its file. Durable when it returns. To shrink, the descriptor says so already, so that the rest of the file is no
   * part of the disk; what a shrink that was cut short has left there must not come back with a growth.
   */
  resize(size: number): void {
    this.access.assertWritable();
    const { start } = this.state;
    if (size < this.virtualSize()) this.size[0] = size;
    else if (this.file.size() > start + this.virtualSize()) this.file.truncate(start + this.virtualSize());
    this.file.truncate(start + size);
    this.size[0] = size;
    this.tracker.noteWrite();
    this.flush();
  }

  /** After a growth whose line may not be written: the file stays as long as it is. */
  showSize(size: number): void {
    this.size[0] = size;
  }

  flush(): void {
    if (this.readOnly) return;
    this.tracker.flush(
      () => undefined,
      () => undefined,
    );
  }

  map(offset: GuestOffset, length: number): Extent {
    return this.plainMap.map(offset, length);
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.map(offset, length);
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.map(offset, length);
  }

  maintain(): void {}

  makeClean(): void {
    this.flush();
  }

  close(): void {
    this.flush();
  }

  abandon(thread: number): void {
    this.tracker.abandon(thread);
  }

  details(): ImageDetails {
    return { format: 'flat', virtualSize: this.virtualSize(), clusterSize: null, dirty: false, specific: {} };
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}

/** Bytes that the file lacks at the end of an extent. */
export function missingBytes(file: HostFile, length: number, start: number): number {
  return Math.max(0, start + length - file.size());
}
