// VirtualDisk: an open image with its backing chain and its locks, as a plain array of bytes. It clips requests at the end
// of the disk, walks the chain for extents, and owns the files: close() always releases them, whatever the flush said.

import { type GuestOffset, guestOffset } from '../bytes/offsets.ts';
import { steadyMs } from '../concurrency/clock.ts';
import { Mutex } from '../concurrency/mutex.ts';
import { closeAll, closeQuietly } from '../errors/close.ts';
import { assert, describeError, ERRNO, ImgfuseError } from '../errors/index.ts';
import {
  type Image,
  imageChain,
  type ReadableSnapshot,
  type SharedImage,
  type Snapshots,
  type WritableImage,
} from '../format/image-format.ts';
import { isSameFile } from '../host/file-identity.ts';
import type { RemoteFile } from '../host/host-file.ts';
import { identityAt, removeFile } from '../host/paths.ts';
import { type ChainExtent, chainExtents, chainFiles, chainOccupiedBytes, chainSeek } from './chain.ts';
import type { ClosedMarks } from './closed-marks.ts';
import type { CopyOnRead, CopyOnReadState } from './copy-on-read.ts';
import { type DiskStatus, statusOf } from './disk-status.ts';
import { formatByName } from './registry.ts';
import { ImageBesideWriter } from './share/image-beside-writer.ts';
import { SnapshotDisk } from './snapshot-disk.ts';

/** Structured-clonable: what a worker thread needs to attach. */
export interface SharedDisk {
  readonly image: SharedImage;
  readonly copyOnRead: CopyOnReadState | null;
  readonly resizeLock: SharedArrayBuffer;
}

export interface VirtualDiskParts {
  /** null: off */
  readonly copyOnRead: CopyOnRead | null;
  /** null: the disk is not marked when it is closed */
  readonly marks: Pick<ClosedMarks, 'keep'> | null;
  /** its open has made its file */
  readonly isNew: boolean;
  /** of the same disk in another thread */
  readonly lockWord: SharedArrayBuffer;
}

export class VirtualDisk {
  private readonly image: Image;
  /** the image, unless it is read-only */
  private readonly writable: WritableImage | null;
  /** only images whose snapshots were wanted have some */
  private readonly readable: Snapshots | undefined;
  private readonly copyOnRead: CopyOnRead | null;
  /** of the chain, those whose bytes come from a server */
  private readonly remote: readonly RemoteFile[];
  /** of the chain, those that another program may write to */
  private readonly besideWriter: readonly ImageBesideWriter[];
  private readonly marks: Pick<ClosedMarks, 'keep'> | null;
  private readonly isNew: boolean;
  private readonly lockWord: SharedArrayBuffer;
  /** One thread at a time changes the size; taken before any lock of the image. */
  private readonly resizeLock: Mutex;

  constructor(
    image: Image,
    {
      copyOnRead = null,
      marks = null,
      isNew = false,
      lockWord = new SharedArrayBuffer(4),
    }: Partial<VirtualDiskParts> = {},
  ) {
    this.image = image;
    this.marks = marks;
    this.isNew = isNew;
    this.writable = image.readOnly ? null : image;
    this.readable = imageChain(image).find(({ snapshots }) => snapshots !== undefined)?.snapshots;
    this.copyOnRead = copyOnRead;
    this.remote = imageChain(image).flatMap(({ file }) => file.remote ?? []);
    this.besideWriter = imageChain(image).filter((each) => each instanceof ImageBesideWriter);
    this.lockWord = lockWord;
    this.resizeLock = new Mutex(new Int32Array(lockWord), 0, `the size of ${image.file.path}`);
  }

  get path(): string {
    return this.image.file.path;
  }

  /** of the image file; null if it has none */
  get descriptor(): number | null {
    return this.image.file.descriptor;
  }

  get format(): string {
    return this.image.format;
  }

  get readOnly(): boolean {
    return this.image.readOnly;
  }

  get clusterSize(): number {
    return this.image.clusterSize;
  }

  /** Called first by every method that may read a remote file for the kernel. */
  private requestBegins(): void {
    for (const file of this.remote) file.requestBegins();
  }

  /** Virtual size in bytes. */
  size(): number {
    return this.image.virtualSize();
  }

  /** When the image, or the file that holds its data, last changed, in ms since the epoch; null if that is not known. */
  modifiedMs(): number | null {
    const times = this.image.files.flatMap(({ file }) => file.modifiedMs() ?? []);
    return times.length === 0 ? null : Math.max(...times);
  }

  /** Another program may write to an image of the chain (share, or no locks). */
  get isBesideWriter(): boolean {
    return this.besideWriter.length > 0;
  }

  /**
   * Another program may have written to images of the chain: what has been read of them does not count any more if their
   * files have changed. @returns whether they may have
   */
  noteChanges(): boolean {
    let areChanged = false;
    for (const image of this.besideWriter) if (image.noteChanges()) areChanged = true;
    return areChanged;
  }

  /** Bytes of the disk that have clusters in the image file. */
  allocatedBytes(): number {
    return this.image.allocatedBytes();
  }

  /**
   * An upper bound of the bytes of the disk that may be data, those of the chain below included; walks no table. 0 only if the
   * whole disk reads as zeros: tar stores nothing of a file without blocks.
   */
  occupiedBytes(): number {
    return chainOccupiedBytes(this.image);
  }

  /** @returns bytes read: fewer than `length` only at the end of the disk */
  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): number {
    const count = Math.max(0, Math.min(length, this.size() - offset));
    if (count === 0) return 0;
    this.requestBegins();
    this.copyOnRead?.copy(offset, count);
    this.image.read(target, targetOffset, count, offset);
    return count;
  }

  /** @returns bytes written: fewer than `length` only at the end of the disk. Throws EFBIG beyond it. */
  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): number {
    if (length === 0) return 0;
    const count = Math.min(length, this.size() - offset);
    if (count <= 0) {
      throw new ImgfuseError('limit', `a write at ${offset} lies beyond the end of the disk of ${this.size()} bytes`, {
        path: this.path,
        offset,
      });
    }
    this.requestBegins();
    this.changeable().write(source, sourceOffset, count, offset);
    return count;
  }

  /** Whether a discard gives any space back. If not, it writes zeros like writeZeroes(). */
  canDiscard(): boolean {
    return this.writable?.canDiscard() ?? false;
  }

  /** The range reads as zeros afterwards; what lies beyond the end is ignored. */
  discard(offset: number, length: number): void {
    const count = Math.min(length, this.size() - offset);
    this.requestBegins();
    if (count > 0) this.changeable().discard(guestOffset(offset), count);
  }

  /** The range reads as zeros afterwards; what lies beyond the end is ignored. */
  writeZeroes(offset: number, length: number): void {
    const count = Math.min(length, this.size() - offset);
    this.requestBegins();
    if (count > 0) this.changeable().writeZeroes(guestOffset(offset), count);
  }

  /** Takes host space for the range, so that writes into it cannot fail with ENOSPC. */
  preallocate(offset: number, length: number): void {
    const count = Math.min(length, this.size() - offset);
    this.requestBegins();
    if (count > 0) this.changeable().preallocate(guestOffset(offset), count);
  }

  /** Sets the virtual size; formats round it up to their sector size. */
  resize(size: number): void {
    this.requestBegins();
    this.resizeLock.run(() => this.resizable().resize(size));
  }

  /** Makes the disk at least `size` bytes long. Another thread may have made it longer than the caller has seen. */
  growTo(size: number): void {
    this.requestBegins();
    this.resizeLock.run(() => {
      if (size > this.image.virtualSize()) this.resizable().resize(size);
    });
  }

  /** Returns when everything that was written before is on stable storage. */
  flush(): void {
    this.writable?.flush();
  }

  /** The extents of [offset, offset + length), which lies inside the disk, through the chain; neighbours may say the same. */
  *extents(offset = 0, length: number = this.size() - offset): Generator<ChainExtent, void> {
    const extents = chainExtents(this.image, offset, offset + length);
    for (;;) {
      this.requestBegins();
      const { done, value } = extents.next();
      if (done === true) return;
      yield value;
    }
  }

  /** The first of them. */
  extent(offset: number, length: number = this.size() - offset): ChainExtent {
    return this.extents(offset, length).next().value!;
  }

  /** The first offset from `offset` on that has data, or has none; `end` if there is no such offset before it. */
  seek(offset: number, wantsData: boolean, end: number = this.size()): number {
    this.requestBegins();
    return chainSeek(this.image, offset, wantsData, end);
  }

  /**
   * Internal snapshots that can be read, if they were wanted when the disk was opened: those of the image, or, if an overlay was put
   * on the image and has none of its own, those of the image below it.
   */
  snapshots(): readonly ReadableSnapshot[] {
    return this.readable?.list ?? [];
  }

  /** The disk of a snapshot, which can be read as long as this disk is open. @param position in snapshots() */
  openSnapshot(position: number): SnapshotDisk {
    const { readable } = this;
    assert(readable?.list[position] !== undefined, `there is no snapshot ${position}`);
    return new SnapshotDisk(readable.open(position), () => this.requestBegins());
  }

  /** Background work; called a few times a second by one thread. @param nowMs of steadyMs() */
  maintain(nowMs = steadyMs()): void {
    this.writable?.maintain(nowMs);
  }

  /** Flushes and clears the dirty bit if no change is in flight. */
  makeClean(): void {
    this.writable?.makeClean();
  }

  /**
   * Flushes, marks clean, closes all files and with them the locks; every step is tried even if another fails.
   * @throws the first error: that the image could not be closed clean, or that a file could not be closed
   */
  close(): void {
    try {
      this.image.close();
    } catch (error) {
      closeQuietly(chainFiles(this.image));
      throw new ImgfuseError('io', `${this.path} could not be closed clean: ${describeError(error)}`, {
        path: this.path,
        errno: ERRNO.EIO,
      });
    }
    try {
      this.mark();
    } finally {
      closeAll(chainFiles(this.image));
    }
  }

  /**
   * close() of a disk that could not be mounted. If its open has made its file and nothing was written to it, the file is
   * removed again.
   */
  withdraw(): void {
    const isUnused = this.isNew && this.allocatedBytes() === 0;
    const identity = this.image.file.identity();
    this.close();
    const there = isUnused ? identityAt(this.path) : null;
    if (there !== null && isSameFile(there, identity)) removeFile(this.path);
  }

  /** The image is closed clean, and its files are still open and locked. */
  private mark(): void {
    const { marks, writable } = this;
    if (marks === null || writable === null) return;
    const facts = writable.closedFacts?.() ?? null;
    if (facts !== null) marks.keep(writable, facts);
  }

  /** @throws ImgfuseError read-only */
  private changeable(): WritableImage {
    if (this.writable !== null) return this.writable;
    throw new ImgfuseError('read-only', `${this.path} is open read-only`, { path: this.path });
  }

  /** @throws ImgfuseError read-only, unsupported */
  private resizable(): WritableImage {
    const { can, title } = formatByName(this.format);
    const image = this.changeable();
    if (can.resize) return image;
    const message = `${this.path} is ${title}, and disks in that format keep their size; copy it into an image of another format`;
    throw new ImgfuseError('unsupported', message, { path: this.path });
  }

  status(): DiskStatus {
    return statusOf(this.image, this.copyOnRead, this.remote);
  }

  /** Ends all waiting for servers, in every thread: a read of bytes that have not arrived is an error from now on. */
  giveUpServers(): void {
    for (const file of this.remote) file.giveUp();
  }

  /**
   * A thread that used the disk has died: threads that wait for what it held get an error instead of waiting for ever.
   * @param thread its `threadId` @param slot the one it was attached with
   */
  abandon(thread: number, slot: number): void {
    this.resizeLock.abandon(thread);
    for (const image of imageChain(this.image)) {
      image.abandon(thread, slot);
      image.file.remote?.abandon(thread);
    }
  }

  /**
   * Called after a thread has died. Makes everything durable, or, if the tables cannot be trusted any more, at least the bytes
   * that are in the files already. The image stays marked as not clean.
   * @throws ImgfuseError the reason why the rest could not be made durable
   */
  rescue(): void {
    try {
      this.flush();
    } catch (error) {
      if (!this.readOnly) for (const { file } of this.image.files.toReversed()) if (!file.readOnly) file.sync();
      throw error;
    }
  }

  share(): SharedDisk {
    return { image: this.image.share(), copyOnRead: this.copyOnRead?.state ?? null, resizeLock: this.lockWord };
  }
}
