// An open VMDK image: requests go in pieces to the extents that hold them, each of which has its own tables, locks and durability
// steps. What they do together:
//
//   first change   every extent marked as not closed clean, new CID (durable) -> the change
//   flush          every extent
//   resize         the last extent (durable) -> its line in the descriptor; to shrink, the other way round
//   close          flush of every extent -> each cuts its end and marks itself as closed clean

import { type GuestOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { closeAll } from '../../errors/close.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import {
  type ClosedFacts,
  type Extent,
  type ImageDetails,
  type ImageFile,
  type ReadableImage,
  type SharedImage,
  type StatusRun,
  shareImage,
  type WritableImage,
} from '../image-format.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { ExtentPiece, ExtentTable, PlacedExtent } from './extents.ts';
import type { WritingSession } from './session.ts';

export interface VmdkParts {
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly readOnly: boolean;
  readonly backing: ReadableImage | null;
  readonly extents: ExtentTable;
  readonly session: WritingSession;
  /** of the descriptor */
  readonly tracker: WriteTracker;
  /** @param isChanged the CID has been changed */
  readonly describe: (isChanged: boolean, virtualSize: number, isDirty: boolean) => ImageDetails;
  readonly resize: (size: number) => void;
  /** The descriptor says the size of the disk, if it does not yet. */
  readonly writeSize: () => void;
  /** The descriptor says what the parent is called now. */
  readonly adoptParent: (identity: string) => void;
  /** the only extent has the descriptor in it, so that its file is the image */
  readonly isOneFile: boolean;
}

/** Granularity of discards that the guest is told if no extent has one: a page of the host. */
const PAGE_BYTES = 4096;

export class VmdkImage implements WritableImage {
  readonly format = 'vmdk';
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly readOnly: boolean;
  readonly backing: ReadableImage | null;
  readonly clusterSize: number;
  readonly deallocate?: (offset: GuestOffset, length: number) => void;
  private readonly parts: VmdkParts;
  private readonly state: unknown;

  /** @param state what share() passes to other threads */
  constructor(parts: VmdkParts, state: unknown) {
    this.parts = parts;
    this.state = state;
    this.file = parts.file;
    this.files = parts.files;
    this.readOnly = parts.readOnly;
    this.backing = parts.backing;
    const { list } = parts.extents;
    this.clusterSize = Math.max(PAGE_BYTES, ...list.map(({ grainBytes }) => grainBytes));
    const canUncover = list.every(({ writer }) => writer?.deallocate !== undefined);
    if (parts.backing !== null && canUncover) {
      this.deallocate = (offset, length) =>
        this.keepContent(offset, length, (writer, at, part) => writer.deallocate!(at, part));
    }
  }

  get identity(): string {
    return this.details().identity!;
  }

  virtualSize(): number {
    return this.parts.extents.end;
  }

  allocatedBytes(): number {
    return this.parts.extents.list.reduce((bytes, { reader }) => bytes + reader.allocatedBytes(), 0);
  }

  failure(): string | null {
    return this.parts.tracker.failure();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    for (const { extent, offset: at, length: part, done } of this.parts.extents.pieces(offset, length)) {
      const inside = Math.max(0, Math.min(part, extent.reader.virtualSize() - at));
      if (inside > 0) extent.reader.read(target, targetOffset + done, inside, at);
      // an extent whose header says less than its line
      if (inside < part) target.fill(0, targetOffset + done + inside, targetOffset + done + part);
    }
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    this.change(offset, length, ({ extent, offset: at, length: part, done }) =>
      extent.writer!.write(source, sourceOffset + done, part, at),
    );
  }

  map(offset: GuestOffset, length: number): Extent {
    const { extent, offset: at, length: part } = this.parts.extents.first(offset, length);
    const inside = Math.min(part, extent.reader.virtualSize() - at);
    if (inside <= 0) return { start: offset, length: part, status: 'zero' };
    const { file } = extent;
    return { ...extent.reader.map(at, inside), start: offset, ...(file === null ? {} : { holder: file }) };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.statusOf('mapStatus', offset, length);
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.statusOf('mapContent', offset, length);
  }

  private statusOf(how: 'mapContent' | 'mapStatus', offset: GuestOffset, length: number): StatusRun {
    const { extent, offset: at, length: part } = this.parts.extents.first(offset, length);
    const inside = Math.min(part, extent.reader.virtualSize() - at);
    return inside <= 0 ? { status: 'zero', length: part } : extent.reader[how](at, inside);
  }

  canDiscard(): boolean {
    return this.parts.extents.writers.some((writer) => writer.canDiscard());
  }

  discard(offset: GuestOffset, length: number): void {
    this.zero(offset, length, 'discard');
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    this.zero(offset, length, 'writeZeroes');
  }

  private zero(offset: GuestOffset, length: number, how: 'discard' | 'writeZeroes'): void {
    // what is zeros for ever has nothing to do
    const changes = (extent: PlacedExtent): boolean => extent.line.type !== 'ZERO';
    this.change(offset, length, ({ extent, offset: at, length: part }) => extent.writer![how](at, part), changes);
  }

  preallocate(offset: GuestOffset, length: number): void {
    this.change(offset, length, ({ extent, offset: at, length: part }) => extent.writer!.preallocate(at, part));
  }

  copyUp(offset: GuestOffset, length: number): void {
    if (this.backing === null) return;
    this.keepContent(offset, length, (writer, at, part) => writer.copyUp(at, part));
  }

  /**
   * What the disk reads stays the same, here and below, so the CID does: the children of an image that was committed find it as they
   * left it. Each extent marks itself.
   */
  private keepContent(
    offset: GuestOffset,
    length: number,
    action: (writer: WritableImage, offset: GuestOffset, length: number) => void,
  ): void {
    this.assertWritable();
    this.noting(() => {
      for (const { extent, offset: at, length: part } of this.parts.extents.pieces(offset, length))
        if (extent.writer !== null) action(extent.writer, at, part);
    });
  }

  /** What the disk reads stays the same, so the CID does. */
  adoptParent(identity: string): void {
    this.assertWritable();
    this.parts.adoptParent(identity);
  }

  /** A change that a part of the disk does not take is refused before any part is touched. */
  private change(
    offset: GuestOffset,
    length: number,
    action: (piece: ExtentPiece) => void,
    changes: (extent: PlacedExtent) => boolean = () => true,
  ): void {
    this.assertWritable();
    const pieces = this.parts.extents.pieces(offset, length).filter(({ extent }) => changes(extent));
    for (const { extent } of pieces) {
      if (extent.writer !== null) continue;
      const what = `${extent.line.access} ${extent.line.type}`;
      throw new ImgfuseError(
        'permission',
        `${this.file.path} says ${what} of these bytes of the disk, so they are never written`,
        { path: this.file.path, offset },
      );
    }
    if (pieces.length === 0) return;
    this.noting(() => {
      this.parts.session.begin();
      for (const piece of pieces) action(piece);
    });
  }

  private assertWritable(): void {
    const { path } = this.file;
    if (this.readOnly) throw new ImgfuseError('read-only', `${path} is open read-only`, { path });
    this.parts.tracker.assertWritable();
  }

  /** An extent that has failed makes the whole image read-only (R8). */
  private noting(action: () => void): void {
    try {
      action();
    } catch (error) {
      if (this.parts.extents.writers.some((writer) => writer.failure() !== null)) this.parts.tracker.fail(error);
      throw error;
    }
  }

  resize(size: number): void {
    this.assertWritable();
    const wanted = roundUp(size, SECTOR_BYTES);
    this.noting(() => {
      if (wanted !== this.virtualSize()) this.parts.session.begin();
      this.parts.resize(wanted);
    });
  }

  flush(): void {
    if (this.readOnly) return;
    this.assertTrusted();
    this.each((writer) => writer.flush());
  }

  /** A flush after a failure must not claim success. */
  private assertTrusted(): void {
    this.parts.tracker.flush(
      () => undefined,
      () => undefined,
    );
  }

  maintain(nowMs: number): void {
    if (this.readOnly || this.failure() !== null) return;
    this.each((writer) => writer.maintain(nowMs));
  }

  makeClean(): void {
    if (this.readOnly) return;
    this.assertTrusted();
    this.parts.session.end();
    this.each((writer) => writer.makeClean());
  }

  /** No extent is marked as closed clean before all are flushed. */
  close(): void {
    if (this.readOnly) return;
    this.flush();
    if (this.parts.session.isChanged) this.parts.writeSize();
    this.noting(() => closeAll(this.parts.extents.writers));
  }

  private each(action: (writer: WritableImage) => void): void {
    this.noting(() => this.parts.extents.writers.forEach(action));
  }

  /** What is known of one file says nothing of another. */
  closedFacts(): ClosedFacts | null {
    const { extents, isOneFile } = this.parts;
    if (!isOneFile || this.readOnly || this.failure() !== null) return null;
    return extents.last.writer?.closedFacts?.() ?? null;
  }

  abandon(thread: number, slot: number): void {
    this.parts.session.abandon(thread);
    this.parts.tracker.abandon(thread);
    for (const { image } of this.parts.extents.list) image?.abandon(thread, slot);
  }

  details(): ImageDetails {
    const { describe, extents, session } = this.parts;
    const isDirty = extents.list.some(({ image }) => image?.details().dirty === true);
    return describe(session.isChanged, this.virtualSize(), isDirty);
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}
