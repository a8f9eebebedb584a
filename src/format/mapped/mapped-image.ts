// An open image of a format whose tables map the guest's data. What all these formats do alike is here: the question whether a
// request may change the image, before it does, and the note that a flush has work, after it. The order of durability steps is
// each format's own, in its image.ts (ImageSteps).

import { after, type GuestCluster, type GuestOffset, guestCluster } from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { GuestAccess } from '../guest-access.ts';
import {
  type ClosedFacts,
  type Extent,
  type ImageDetails,
  type ImageFile,
  type ReadableImage,
  type SharedImage,
  type Snapshots,
  type StatusRun,
  shareImage,
  type WritableImage,
} from '../image-format.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { DiskNumbers } from './disk-numbers.ts';
import type { ImageMap } from './image-map.ts';
import type { ReservedRuns } from './runs/reserved-runs.ts';

/** The format's own orders of durability steps. Called without the metadata lock; for a read-only image only details(). */
export interface ImageSteps {
  /** A change has failed. @returns whether this has freed space that the change may need, so that it is tried once more */
  makeRoom(error: unknown): boolean;
  /** Allocates the first clusters of the range, where they read as zeros. @returns bytes from `offset` on that are done */
  preallocateFirst(offset: GuestOffset, length: number): number;
  resize(size: number): void;
  flush(): void;
  maintain(nowMs: number): void;
  makeClean(): void;
  close(): void;
  /** as WritableImage.closedFacts(), of an image that has not failed */
  closedFacts(): ClosedFacts | null;
  /** A discard gives space back, here or on the host. */
  canDiscard(): boolean;
  details(virtualSize: number): ImageDetails;
}

export interface MappedImageParts {
  readonly format: string;
  readonly files: readonly ImageFile[];
  readonly backing: ReadableImage | null;
  readonly clusterSize: number;
  readonly access: GuestAccess;
  readonly copier: { run(offset: GuestOffset, length: number): void } | null;
  readonly disk: Pick<DiskNumbers, 'allocatedClustersOutsideLock' | 'virtualSizeOutsideLock'>;
  readonly deallocator: {
    zero(offset: GuestOffset, length: number, diskEnd: number): void;
    /** absent: the format has no backing files */
    uncover?(first: GuestCluster, end: GuestCluster): void;
  };
  readonly imageMap: ImageMap;
  readonly runs: Pick<ReservedRuns<never>, 'readReserving' | 'writeReserving'>;
  readonly tracker: WriteTracker;
  /** what a thread may hold when it dies */
  readonly lock: Mutex;
  /** null: the format has none */
  readonly dirtyBit: { abandon(thread: number): void } | null;
  readonly reservations: Reservations;
  /** absent: none, or not wanted */
  readonly snapshots?: Snapshots;
  /** as in ReadableImage */
  readonly identity?: string;
  /** as in WritableImage */
  readonly adoptParent?: (identity: string) => void;
}

export class MappedImage implements WritableImage {
  readonly format: string;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly backing: ReadableImage | null;
  readonly readOnly: boolean;
  readonly clusterSize: number;
  readonly snapshots?: Snapshots;
  readonly identity?: string;
  readonly deallocate?: (offset: GuestOffset, length: number) => void;
  readonly adoptParent?: (identity: string) => void;
  private readonly parts: MappedImageParts;
  private readonly steps: ImageSteps;
  private readonly state: unknown;

  /** @param file the one that was opened @param state what share() passes to other threads */
  constructor(file: HostFile, parts: MappedImageParts, steps: ImageSteps, state: unknown) {
    this.format = parts.format;
    this.file = file;
    this.files = parts.files;
    this.backing = parts.backing;
    this.readOnly = file.readOnly;
    this.clusterSize = parts.clusterSize;
    if (parts.snapshots !== undefined) this.snapshots = parts.snapshots;
    if (parts.identity !== undefined) this.identity = parts.identity;
    const { adoptParent } = parts;
    if (adoptParent !== undefined) {
      this.adoptParent = (identity) => {
        parts.access.assertWritable();
        adoptParent(identity);
      };
    }
    this.parts = parts;
    this.steps = steps;
    this.state = state;
    if (parts.deallocator.uncover !== undefined) this.deallocate = (offset, length) => this.uncover(offset, length);
  }

  virtualSize(): number {
    return this.parts.disk.virtualSizeOutsideLock();
  }

  allocatedBytes(): number {
    return this.parts.disk.allocatedClustersOutsideLock() * this.clusterSize;
  }

  failure(): string | null {
    return this.parts.tracker.failure();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    this.parts.runs.readReserving(target, targetOffset, length, offset);
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    this.parts.access.assertWritable();
    this.change(() => this.parts.runs.writeReserving(source, sourceOffset, length, offset));
  }

  map(offset: GuestOffset, length: number): Extent {
    return this.parts.imageMap.map(offset, length);
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.parts.imageMap.mapStatus(offset, length);
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.parts.imageMap.mapContent(offset, length);
  }

  canDiscard(): boolean {
    return !this.readOnly && this.steps.canDiscard();
  }

  discard(offset: GuestOffset, length: number): void {
    this.writeZeroes(offset, length);
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    const { access, deallocator } = this.parts;
    access.assertWritable();
    const size = this.virtualSize();
    access.assertInside(offset, length, size);
    this.change(() => deallocator.zero(offset, length, size));
  }

  private uncover(offset: GuestOffset, length: number): void {
    const { clusterSize } = this;
    const { access, deallocator } = this.parts;
    access.assertWritable();
    const size = this.virtualSize();
    access.assertInside(offset, length, size);
    const first = Math.ceil(offset / clusterSize);
    const end = offset + length === size ? Math.ceil(size / clusterSize) : Math.floor((offset + length) / clusterSize);
    if (first < end) this.change(() => deallocator.uncover!(guestCluster(first), guestCluster(end)));
  }

  preallocate(offset: GuestOffset, length: number): void {
    this.parts.access.assertWritable();
    this.parts.access.assertInside(offset, length, this.virtualSize());
    this.change(() => {
      for (let done = 0; done < length; ) {
        done += this.steps.preallocateFirst(after(offset, done), length - done);
      }
    });
  }

  copyUp(offset: GuestOffset, length: number): void {
    this.parts.access.assertWritable();
    const { copier } = this.parts;
    if (copier !== null) this.withRoom(() => copier.run(offset, length));
  }

  resize(size: number): void {
    this.parts.access.assertWritable();
    this.withRoom(() => this.steps.resize(size));
  }

  flush(): void {
    if (!this.readOnly) this.steps.flush();
  }

  maintain(nowMs: number): void {
    if (!this.readOnly && this.failure() === null) this.steps.maintain(nowMs);
  }

  makeClean(): void {
    if (!this.readOnly) this.steps.makeClean();
  }

  close(): void {
    if (!this.readOnly) this.steps.close();
  }

  closedFacts(): ClosedFacts | null {
    return this.readOnly || this.failure() !== null ? null : this.steps.closedFacts();
  }

  abandon(thread: number, slot: number): void {
    const { dirtyBit, lock, reservations, tracker } = this.parts;
    lock.abandon(thread);
    dirtyBit?.abandon(thread);
    tracker.abandon(thread);
    reservations.abandon(slot);
  }

  details(): ImageDetails {
    return this.steps.details(this.virtualSize());
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }

  /** Runs a change that the guest asked for. The next flush covers it, also if it has failed halfway. */
  private change(action: () => void): void {
    try {
      this.withRoom(action);
    } finally {
      this.parts.tracker.noteWrite();
    }
  }

  /** Runs a change, and runs it again if it failed and makeRoom() has freed space: to repeat a change does no harm. */
  private withRoom(action: () => void): void {
    try {
      action();
    } catch (error) {
      if (!this.steps.makeRoom(error)) throw error;
      action();
    }
  }
}
