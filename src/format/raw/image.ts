// An open raw image: the guest offset is the host offset. There is no metadata, so there are no locks and no reservations:
// overlapping requests race as they do on a plain file.

import { type GuestOffset, hostOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';
import { type HostFile, possibleDataBytes, readPadded } from '../../host/host-file.ts';
import type { FileEnds } from '../file-ends.ts';
import { GuestAccess } from '../guest-access.ts';
import {
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type SharedImage,
  type StatusRun,
  shareImage,
  type WritableImage,
} from '../image-format.ts';
import { PlainMap } from '../plain-map.ts';
import { WriteTracker } from '../write-tracker.ts';
import { ProbeGuard } from './probe-guard.ts';
import { RawSize, type RawState } from './state.ts';

/** Granularity of discards that the guest is told: a page of the host. */
const RAW_CLUSTER_SIZE = 4096;

/**
 * The virtual size of a raw image with a file of `fileSize` bytes, in bytes: whole sectors, as in QEMU. If the file ends inside
 * its last sector, the rest reads as zeros until the guest writes there and so lengthens the file.
 */
export function rawSize(fileSize: number): number {
  return roundUp(fileSize, SECTOR_BYTES);
}

interface RawImageOptions {
  readonly log: (sentence: string) => void;
  /** required if the format was guessed */
  readonly recognizedName?: (ends: FileEnds) => string | null;
}

export class RawImage implements WritableImage {
  readonly format = 'raw';
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize = RAW_CLUSTER_SIZE;
  readonly readOnly: boolean;
  readonly backing = null;
  private readonly state: RawState;
  private readonly size: RawSize;
  private readonly tracker: WriteTracker;
  private readonly access: GuestAccess;
  private readonly plainMap: PlainMap;
  /** null if the user named the format: then the guest may write anything */
  private readonly guard: ProbeGuard | null;

  constructor(file: HostFile, state: RawState, { log, recognizedName }: RawImageOptions) {
    this.file = file;
    this.files = onlyFile(file);
    this.readOnly = file.readOnly;
    this.state = state;
    this.size = new RawSize(state);
    this.tracker = new WriteTracker(state.tracker, file, log);
    this.plainMap = new PlainMap(file);
    this.access = new GuestAccess(file, this.tracker, this.size);
    assert(!state.probed || recognizedName !== undefined, 'a guessed raw image cannot be guarded');
    this.guard = state.probed && recognizedName !== undefined ? new ProbeGuard(file, recognizedName) : null;
  }

  virtualSize(): number {
    return this.size.virtualSize;
  }

  allocatedBytes(): number {
    return possibleDataBytes(this.file);
  }

  failure(): string | null {
    return this.tracker.failure();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    readPadded(this.file, target, targetOffset, length, hostOffset(offset));
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    this.access.assertWritable();
    this.access.assertInside(offset, length);
    this.guard?.assertStaysRaw(this.virtualSize(), offset, length, source, sourceOffset);
    this.file.write(source, sourceOffset, length, hostOffset(offset));
    this.tracker.noteWrite();
  }

  canDiscard(): boolean {
    return this.file.punchesHoles();
  }

  discard(offset: GuestOffset, length: number): void {
    this.access.assertWritable();
    this.access.assertInside(offset, length);
    this.guard?.assertStaysRaw(this.virtualSize(), offset, length, null);
    this.file.punchHole(hostOffset(offset), length);
    this.tracker.noteWrite();
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    this.access.assertWritable();
    this.access.assertInside(offset, length);
    this.guard?.assertStaysRaw(this.virtualSize(), offset, length, null);
    this.file.zeroRange(hostOffset(offset), length);
    this.tracker.noteWrite();
  }

  preallocate(offset: GuestOffset, length: number): void {
    this.access.assertWritable();
    this.access.assertInside(offset, length);
    this.file.allocateRange(hostOffset(offset), length);
    this.tracker.noteWrite();
  }

  /** There is no backing file. */
  copyUp(): void {}

  resize(size: number): void {
    this.access.assertWritable();
    const padded = rawSize(size);
    this.guard?.assertStaysRawAt(padded);
    this.file.truncate(padded);
    this.size.setVirtualSize(padded);
    this.tracker.noteWrite();
    this.flush();
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
    return {
      format: 'raw',
      virtualSize: this.virtualSize(),
      clusterSize: null,
      dirty: false,
      specific: {},
    };
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}
