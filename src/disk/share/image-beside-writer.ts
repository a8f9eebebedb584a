// An image that is only read while another program may write to its files (share, or no locks at all). That program knows nothing
// of us: what was read of its tables is out of date sooner or later, and an entry may lead beyond the end of the file, because the
// file was shorter then or is not longer yet. Nothing is refreshed piece by piece: the image is opened again over the same files, so
// that no format knows of this. Invariant: what one thread has seen of the writer, later reads of every thread see as well.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { sleepMs } from '../../concurrency/clock.ts';
import { assert, ImgfuseError, isCorrupt } from '../../errors/index.ts';
import type {
  Extent,
  Image,
  ImageDetails,
  ImageFile,
  ImageFormat,
  ReadableImage,
  ReadOnlyImage,
  SharedImage,
  Snapshots,
  StatusRun,
} from '../../format/image-format.ts';
import { areSameFiles, type FileVersions, versionsOf } from '../../host/file-version.ts';
import type { HostFile } from '../../host/host-file.ts';
import { SnapshotBesideWriter } from './snapshot-beside-writer.ts';

/**
 * Waits before the looks that follow a failed one. Between an entry and the bytes that it leads to, a writer may have to wait for
 * a processor, so the last ones are long.
 */
export const WAITS_MS = [0, 1, 2, 4, 8, 16, 32, 64, 128];
/** Memory for the tables of one thread once the image was opened again. */
const TABLE_CACHE_BYTES = 4 * 1024 * 1024;

/** How often the image had to be opened again, as all threads count it. */
export function createRounds(): SharedArrayBuffer {
  return new SharedArrayBuffer(4);
}

/** Errors that were looked at often enough: an image above that meets one does not look again. */
const settled = new WeakSet<object>();

export class ImageBesideWriter implements ReadOnlyImage {
  readonly readOnly = true;
  readonly format: string;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize: number;
  readonly backing: ReadableImage | null;
  readonly identity?: string;
  readonly snapshots?: Snapshots;
  private readonly plug: ImageFormat;
  /** what all threads share; it is never closed before the disk */
  private readonly first: Image;
  private readonly rounds: Int32Array;
  /** this thread's: `first`, or the last opening that came after it */
  private newest: Image;
  /** the count of rounds that `newest` is at least as new as */
  private round = 0;
  /** of the files when noteChanges() looked last; null: not known */
  private noted: FileVersions | null = null;
  /** of the files when all looks at them failed; null: never */
  private failed: FileVersions | null = null;

  /** @param image the opening that all threads share @param rounds of createRounds() */
  constructor(plug: ImageFormat, image: Image, rounds: SharedArrayBuffer) {
    assert(image.readOnly, 'only an image that is read is opened again');
    this.plug = plug;
    this.first = image;
    this.newest = image;
    this.rounds = new Int32Array(rounds);
    this.format = image.format;
    this.file = image.file;
    this.files = image.files;
    this.clusterSize = image.clusterSize;
    this.backing = image.backing;
    const { identity, snapshots } = image;
    if (identity !== undefined) this.identity = identity;
    if (snapshots !== undefined) {
      const { list } = snapshots;
      this.snapshots = { list, open: (position) => new SnapshotBesideWriter(this, snapshots, list[position]!) };
    }
  }

  /** The size does not change, whatever the writer does to its own. */
  virtualSize(): number {
    return this.first.virtualSize();
  }

  allocatedBytes(): number {
    return this.newest.allocatedBytes();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    try {
      this.current().read(target, targetOffset, length, offset);
    } catch (error) {
      this.lookAgain(error, (image) => image.read(target, targetOffset, length, offset));
    }
  }

  map(offset: GuestOffset, length: number): Extent {
    return this.ask((image) => image.map(offset, length));
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.ask((image) => image.mapStatus(offset, length));
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.ask((image) => image.mapContent(offset, length));
  }

  private ask<T>(question: (image: Image) => T): T {
    try {
      return question(this.current());
    } catch (error) {
      return this.lookAgain(error, question);
    }
  }

  /** The image as this thread knows it; opened again if another thread has had to do that. */
  current(): Image {
    if (Atomics.load(this.rounds, 0) !== this.round) this.reopen();
    return this.newest;
  }

  /**
   * Tries again what failed, each time with the image opened anew, for a quarter of a second at most. @throws `error` if it says
   * anything but that the image is damaged, or if nothing has changed since all looks failed; else the error of the last look
   */
  lookAgain<T>(error: unknown, action: (image: Image) => T): T {
    if (!isCorrupt(error) || settled.has(error as object)) throw error;
    if (this.isKnownToFail()) throw settle(error);
    let last = error;
    let before: FileVersions | null = null;
    for (const wait of WAITS_MS) {
      if (wait > 0) sleepMs(wait);
      before = this.versions();
      if (!this.reopen()) continue;
      try {
        const answer = action(this.newest);
        this.tellOthers();
        return answer;
      } catch (failure) {
        last = failure;
        if (!isCorrupt(failure) || settled.has(failure as object)) throw failure;
      }
    }
    this.failed = before !== null && areSameFiles(before, this.versions()) ? before : null;
    throw settle(last);
  }

  /**
   * The next read of every thread opens the image again if its files have changed since this thread asked last.
   * @returns whether they have, or may have
   */
  noteChanges(): boolean {
    const now = this.versions();
    if (areSameFiles(this.noted, now)) return false;
    this.noted = now;
    Atomics.add(this.rounds, 0, 1);
    return true;
  }

  private isKnownToFail(): boolean {
    return this.failed !== null && areSameFiles(this.failed, this.versions());
  }

  private versions(): FileVersions | null {
    return versionsOf(this.files.map(({ file }) => file));
  }

  /** @returns false: what the writer has made of it cannot be opened, or is no longer this disk */
  private reopen(): boolean {
    const { backing, first, plug } = this;
    const round = Atomics.load(this.rounds, 0);
    const others = this.files.slice(1).map(({ file }) => file);
    let image: Image;
    try {
      image = plug.open(this.file, {
        ...{ readOnly: true, isLazy: true, probed: false, slots: 1, tableCacheBytes: TABLE_CACHE_BYTES },
        before: first.share().state,
        wantsSnapshots: first.snapshots !== undefined,
        openBacking: () => backing ?? this.refuse('it has a backing file now'),
        openExtent: () => others.shift() ?? this.refuse('it has more files now'),
        log: () => undefined,
      });
    } catch (error) {
      if (error instanceof ImgfuseError) return false;
      throw error;
    }
    if (image.virtualSize() < this.virtualSize()) return false;
    this.newest = image;
    this.round = round;
    return true;
  }

  private refuse(what: string): never {
    throw new ImgfuseError('unsupported', `${this.file.path} was changed by another program: ${what}`);
  }

  private tellOthers(): void {
    const before = Atomics.add(this.rounds, 0, 1);
    // else another thread has seen something that may be newer
    if (before === this.round) this.round = before + 1;
  }

  close(): void {
    this.first.close();
  }

  /** Only what was opened first has locks that other threads wait for. */
  abandon(thread: number, slot: number): void {
    this.first.abandon(thread, slot);
  }

  details(): ImageDetails {
    return { ...this.newest.details(), virtualSize: this.virtualSize() };
  }

  share(): SharedImage {
    return { ...this.first.share(), rounds: this.rounds.buffer as SharedArrayBuffer };
  }
}

function settle(error: unknown): unknown {
  settled.add(error as object);
  return error;
}
