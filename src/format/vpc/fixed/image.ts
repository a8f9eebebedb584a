// An open fixed VHD: the guest offset is the host offset, and a footer follows the disk. There is no table, so there are no locks and
// no reservations: overlapping requests race as they do on a plain file. The guest never sees the footer; a request that went over it
// while the disk became smaller puts it back.

import { type GuestOffset, hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { Mutex } from '../../../concurrency/mutex.ts';
import { ImgfuseError } from '../../../errors/index.ts';
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
import { FOOTER_BYTES, MAX_DISK_BYTES } from '../header/footer.ts';
import { resizeFixed } from './resize.ts';

/** Granularity of discards that the guest is told: a page of the host. */
const PAGE_BYTES = 4096;

export interface FixedState {
  readonly kind: 'fixed';
  /** Float64: bytes of the disk */
  readonly size: SharedArrayBuffer;
  readonly footer: SharedArrayBuffer;
  /** one word: one thread at a time changes the size */
  readonly lock: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
  readonly uuid: string;
}

export function createFixedState(size: number, footer: Uint8Array, uuid: string): FixedState {
  const state = {
    kind: 'fixed' as const,
    size: new SharedArrayBuffer(8),
    footer: new SharedArrayBuffer(FOOTER_BYTES),
    lock: new SharedArrayBuffer(4),
    tracker: createWriteTrackerState(),
    uuid,
  };
  new Float64Array(state.size)[0] = size;
  new Uint8Array(state.footer).set(footer);
  return state;
}

export class FixedImage implements WritableImage {
  readonly format = 'vpc';
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize = PAGE_BYTES;
  readonly readOnly: boolean;
  readonly backing = null;
  readonly identity: string;
  private readonly state: FixedState;
  private readonly size: Float64Array;
  private readonly resizeLock: Mutex;
  private readonly tracker: WriteTracker;
  private readonly access: GuestAccess;
  private readonly plainMap: PlainMap;

  constructor(file: HostFile, state: FixedState, log: (sentence: string) => void) {
    this.file = file;
    this.files = onlyFile(file);
    this.readOnly = file.readOnly;
    this.identity = state.uuid;
    this.state = state;
    const size = new Float64Array(state.size);
    this.size = size;
    this.resizeLock = new Mutex(new Int32Array(state.lock), 0, `the footer of ${file.path}`);
    this.tracker = new WriteTracker(state.tracker, file, log);
    this.plainMap = new PlainMap(file);
    this.access = new GuestAccess(file, this.tracker, {
      get virtualSize(): number {
        return size[0]!;
      },
    });
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
    readPadded(this.file, target, targetOffset, length, hostOffset(offset));
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    this.change(offset, length, () => this.file.write(source, sourceOffset, length, hostOffset(offset)));
  }

  canDiscard(): boolean {
    return this.file.punchesHoles();
  }

  discard(offset: GuestOffset, length: number): void {
    this.change(offset, length, () => this.file.punchHole(hostOffset(offset), length));
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    this.change(offset, length, () => this.file.zeroRange(hostOffset(offset), length));
  }

  preallocate(offset: GuestOffset, length: number): void {
    this.change(offset, length, () => this.file.allocateRange(hostOffset(offset), length));
  }

  private change(offset: GuestOffset, length: number, action: () => void): void {
    this.access.assertWritable();
    this.access.assertInside(offset, length);
    try {
      action();
    } finally {
      this.tracker.noteWrite();
    }
    if (offset + length > this.virtualSize()) this.takeBack();
  }

  /** A request was under way while the disk became smaller, and may have gone over the footer: the file ends with it again. */
  private takeBack(): void {
    const { file, state, tracker } = this;
    this.resizeLock.run(() => {
      const end = this.virtualSize();
      const footer = new Uint8Array(state.footer).slice();
      tracker.writeMetadata('header-update', () => file.write(footer, 0, FOOTER_BYTES, hostOffset(end)));
      file.truncate(end + FOOTER_BYTES);
    });
  }

  /** A fixed disk has no parent. */
  copyUp(): void {}

  resize(size: number): void {
    this.access.assertWritable();
    const { file, tracker } = this;
    const padded = roundUp(size, SECTOR_BYTES);
    if (file.isDevice) {
      const sentence = `${file.path} is a block device, whose length stays, and a VHD ends with its file; copy it to a file`;
      throw new ImgfuseError('unsupported', sentence, { path: file.path });
    }
    if (padded > MAX_DISK_BYTES) {
      throw new ImgfuseError('limit', `${file.path} cannot have ${padded} bytes: a VHD reaches ${MAX_DISK_BYTES}`, {
        path: file.path,
      });
    }
    this.resizeLock.run(() => {
      const footer = new Uint8Array(this.state.footer);
      const parts = {
        file,
        tracker,
        oldSize: this.virtualSize(),
        setSize: (bytes: number) => void this.size.set([bytes]),
      };
      footer.set(resizeFixed(parts, footer.slice(), padded));
    });
  }

  flush(): void {
    if (this.readOnly) return;
    this.tracker.flush(
      () => undefined,
      () => undefined,
    );
  }

  /** All of the disk is allocated, as QEMU has it too: what was never written is data that lies in holes. */
  map(offset: GuestOffset, length: number): Extent {
    const extent = this.plainMap.map(offset, length);
    return extent.status === 'zero' ? { ...extent, status: 'data', isHole: true } : extent;
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.plainMap.map(offset, length);
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.plainMap.map(offset, length);
  }

  maintain(): void {}

  makeClean(): void {
    this.flush();
  }

  close(): void {
    this.flush();
  }

  abandon(thread: number): void {
    this.resizeLock.abandon(thread);
    this.tracker.abandon(thread);
  }

  details(): ImageDetails {
    return { format: 'vpc', virtualSize: this.virtualSize(), clusterSize: null, dirty: false, specific: {} };
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}
