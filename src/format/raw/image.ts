// An open raw image: guest offset = host offset. There is no metadata, hence no lock and no reservation: overlapping
// requests race exactly as they do on a plain file.

import { type GuestOffset, hostOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { type HostFile, readPadded } from '../../host/host-file.ts';
import { GuestAccess } from '../guest-access.ts';
import {
  type Extent,
  type Image,
  type ImageDetails,
  type SharedImage,
  type StatusRun,
  shareImage,
} from '../image-format.ts';
import { WriteTracker } from '../write-tracker.ts';

/** Granularity of discards that is worth announcing: a page of the host. */
export const RAW_CLUSTER_SIZE = 4096;
const SECTOR = 512;
/** First bytes of other formats that a probed raw image must not get from its guest. */
const FOREIGN_MAGICS: readonly (readonly number[])[] = [
  [0x51, 0x45, 0x44, 0x00], // QED
  [0x51, 0x46, 0x49, 0xfb], // qcow, qcow2
  [0x4b, 0x44, 0x4d, 0x56], // VMDK sparse
  [0x43, 0x4f, 0x57, 0x44], // VMDK 3
  [0x23, 0x20, 0x44, 0x69, 0x73, 0x6b, 0x20, 0x44], // "# Disk D"escriptorFile
  [0x63, 0x6f, 0x6e, 0x65, 0x63, 0x74, 0x69, 0x78], // VHD "conectix"
  [0x76, 0x68, 0x64, 0x78, 0x66, 0x69, 0x6c, 0x65], // "vhdxfile"
  [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe], // LUKS
];

export interface RawState {
  /** one number: the virtual size */
  readonly numbers: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
  readonly probed: boolean;
}

export class RawImage implements Image {
  readonly format = 'raw';
  readonly file: HostFile;
  readonly clusterSize = RAW_CLUSTER_SIZE;
  readonly readOnly: boolean;
  readonly backing = null;
  readonly dataFile = null;
  private readonly state: RawState;
  private readonly numbers: Float64Array;
  private readonly tracker: WriteTracker;
  private readonly access: GuestAccess;

  constructor(file: HostFile, state: RawState, log: (sentence: string) => void) {
    this.file = file;
    this.readOnly = file.readOnly;
    this.state = state;
    this.numbers = new Float64Array(state.numbers);
    this.tracker = new WriteTracker(state.tracker, file, log);
    this.access = new GuestAccess(file, this.tracker, this.numbers, 0);
  }

  virtualSize(): number {
    return this.access.virtualSize;
  }

  allocatedBytes(): number {
    return this.file.allocatedBytes();
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
    if (this.state.probed && offset < SECTOR) this.refuseForeignMagic(source, sourceOffset, length, offset);
    this.file.write(source, sourceOffset, length, hostOffset(offset));
    this.tracker.noteWrite();
  }

  discard(offset: GuestOffset, length: number): void {
    this.access.assertWritable();
    this.access.assertInside(offset, length);
    this.file.punchHole(hostOffset(offset), length);
    this.tracker.noteWrite();
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    this.access.assertWritable();
    this.access.assertInside(offset, length);
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
    this.file.truncate(size);
    this.numbers[0] = size;
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
    const end = offset + length;
    const data = Math.min(this.file.seekData(hostOffset(offset)), end);
    if (data > offset) return { start: offset, length: data - offset, status: 'zero' };
    const hole = Math.min(this.file.seekHole(hostOffset(offset)), end);
    return { start: offset, length: Math.max(hole - offset, 1), status: 'data', hostOffset: offset };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
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
      clusterSize: RAW_CLUSTER_SIZE,
      dirty: false,
      specific: {},
    };
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }

  private get path(): string {
    return this.file.path;
  }

  private refuseForeignMagic(source: Uint8Array, sourceOffset: number, length: number, offset: number): void {
    const head = new Uint8Array(16);
    readPadded(this.file, head, 0, head.length, hostOffset(0));
    if (offset < head.length)
      head.set(source.subarray(sourceOffset, sourceOffset + Math.min(length, head.length - offset)), offset);
    if (!FOREIGN_MAGICS.some((magic) => magic.every((byte, i) => head[i] === byte))) return;
    throw new ImgfuseError(
      'permission',
      `${this.path} was taken for a raw image by guessing, and the guest writes the start of another image format into its ` +
        'first sector; mount with --format raw if that is intended',
      { path: this.path, offset: 0 },
    );
  }
}
