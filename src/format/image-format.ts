// ImageFormat: the plug of a disk image format. ReadableImage and WritableImage: an open image of it. One folder per format
// implements both. Every method of an image is synchronous.

import type { GuestOffset } from '../bytes/offsets.ts';
import type { HostFile } from '../host/host-file.ts';
import type { PieceLayout, SharedFile } from '../host/shared-file.ts';
import type { BackingReference, ParentFacts, ParentIdentity } from './backing-reference.ts';
import type { CheckReport, RepairMode } from './check-report.ts';
import type { CreateHelp } from './create-option.ts';
import type { FileEnds, Signature } from './file-ends.ts';
import type { OpenStep } from './open-step.ts';

export type { BackingReference, ParentFacts, ParentIdentity, ParentSearch } from './backing-reference.ts';
export { type OpenStep, progressOf } from './open-step.ts';

/** What a range of the virtual disk is, as far as one image of a chain knows. */
export type ExtentStatus = 'data' | 'zero' | 'unallocated';

/** A range with one status; `length` is bytes. */
export interface StatusRun {
  readonly status: ExtentStatus;
  readonly length: number;
}

/** A range of the virtual disk with one status. */
export interface Extent extends StatusRun {
  readonly start: number;
  /** where the range is in its file; of data, and of zeros in a raw image */
  readonly hostOffset?: number;
  /** the data lies in a hole of its file, so that it reads as zeros */
  readonly isHole?: boolean;
  /** the file of the image that has the data; absent: the image file */
  readonly holder?: HostFile;
}

/** What a file beside the image file holds: all of the disk, or the part of it that the format says. */
export type ExtentRole = 'data' | 'extent';
export type FileAccess = 'read' | 'write';

export interface ImageFile {
  readonly role: 'image' | ExtentRole;
  readonly file: HostFile;
}

export interface OpenOptions {
  readonly readOnly: boolean;
  /** Called when a step begins that may take long, and now and then while it goes on. */
  readonly progress?: ((step: OpenStep) => void) | undefined;
  /** Called once, after the header was checked, with the backing file the header names. */
  readonly openBacking: (reference: BackingReference) => ReadableImage;
  /**
   * Opens another file of the image, any number of times, after the header was checked. It is locked as the image file is,
   * and closed whatever fails. `name` is as the image says it; an image that is opened read-only asks for no write access.
   * With a layout, the name is that of a directory with files of these pieces (piece-files.ts), which are not locked.
   */
  readonly openExtent?:
    | ((name: string, role: ExtentRole, access: FileAccess, layout?: PieceLayout) => HostFile)
    | undefined;
  /**
   * Called once when the guest's data is encrypted, before anything is changed. @returns the bytes of the password, which
   * the format overwrites when it has made the key of them. Throws permission when there is none
   */
  readonly password?: ((imagePath: string) => Uint8Array) | undefined;
  /** Where the report of a repair, and warnings, go: one sentence a call. */
  readonly log: (sentence: string) => void;
  /** Upper bound of the memory for cached tables, in bytes. */
  readonly tableCacheBytes: number;
  /** The counters of the image may be late: it is marked dirty while it changes. Throws unsupported where it cannot be. */
  readonly lazyRefcounts?: boolean | undefined;
  /** Reservation slots: threads that may have a request in flight at the same time. The one that opens the image has slot 0. */
  readonly slots: number;
  /** The format was guessed from the content and not named by the user or by an overlay. */
  readonly probed: boolean;
  /** Needed with `probed`: the name of the format that a file with these ends would be taken for, null for raw. */
  readonly recognizedName?: (ends: FileEnds) => string | null;
  /**
   * The open walks no table: entries are checked when a read meets them, and allocatedBytes() is what the host has for the file.
   * Of images below another one and of images on a server; only with readOnly.
   */
  readonly isLazy?: boolean | undefined;
  /** ReadableImage.snapshots is wanted. A snapshot that cannot be read is left out, with a sentence to `log`. */
  readonly wantsSnapshots?: boolean | undefined;
  /**
   * What closedFacts() said of this image, which nothing has changed since: a read-write open need not walk it to know that it is
   * sound.
   */
  readonly closedFacts?: ClosedFacts | undefined;
  /**
   * `state` of what an earlier opening of the same file shares: the key of an encrypted image is taken from there, and nobody is asked
   * for a password.
   */
  readonly before?: unknown;
  /**
   * The image above is committed into this one and knows it by this identity: once this one is changed, it has one of the
   * `afterCommits`, and another one than before. Throws limit if there is none left. Absent: no image above has to know it again.
   */
  readonly committedFrom?: ParentIdentity | undefined;
}

/**
 * What a format wants to know of an image that it has closed clean, beside what its tables say; can be written as JSON. Its
 * reader checks it: it may be anything.
 */
export type ClosedFacts = Readonly<Record<string, unknown>>;

/** What another thread needs to attach to an open image: structured-clonable, of shared buffers and plain data. `state` is the format's. */
export interface SharedImage {
  readonly format: string;
  /** those of the image, in its order */
  readonly files: readonly SharedFile[];
  readonly state: unknown;
  readonly backing: SharedImage | null;
  /** the image is read beside a writer: of disk/share/image-beside-writer.ts */
  readonly rounds?: SharedArrayBuffer;
}

export interface AttachOptions {
  /** reservation slot of the thread, from 0; no two threads share one */
  readonly slot: number;
  readonly backing: ReadableImage | null;
  /** files of the image beside the image file, in its order */
  readonly extents: readonly HostFile[];
  /** as in OpenOptions */
  readonly recognizedName?: (ends: FileEnds) => string | null;
  readonly log: (sentence: string) => void;
}

export interface CreateOptions {
  /** virtual size in bytes */
  readonly size: number;
  /** -o key=value pairs, as qemu-img spells them; unknown keys are refused by name */
  readonly options: ReadonlyMap<string, string>;
  readonly backing?: BackingReference;
  /** absent: `backing` is, or its file is not there yet or cannot be read */
  readonly parent?: ParentFacts;
  /** Creates and opens, empty and for writing, another file of the image, any number of times. Its opener closes it. */
  readonly createExtent?: (name: string, role: ExtentRole) => HostFile;
  /** The bytes of the password of an encrypted image, which the format overwrites. Throws when there is none */
  readonly password?: (() => Uint8Array) | undefined;
  /** one warning a call */
  readonly log?: ((sentence: string) => void) | undefined;
}

export interface CheckOptions {
  /** what cannot be repaired stays a finding that the report does not count as fixed */
  readonly repair: RepairMode;
  /** As in OpenOptions; a check without repair asks for no write access. */
  readonly openExtent?: OpenOptions['openExtent'];
  /** one sentence per finding: "ERROR ..." for a corruption, "Leaked ..." for a leak */
  readonly log: (sentence: string) => void;
  /** fraction of the work done, 0 to 1 */
  readonly progress?: (fraction: number) => void;
}

/** An internal snapshot. Digits stand for numbers up to 2^64 - 1, which a JavaScript number would round. */
export interface SnapshotDetails {
  readonly id: string;
  readonly name: string;
  /** bytes of machine state in digits; 0 when none was saved */
  readonly vmStateSize: string;
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  readonly vmClockSeconds: number;
  /** the rest of the clock, below a second */
  readonly vmClockNanoseconds: number;
  /** instructions executed, in digits; null when they were not counted */
  readonly icount: string | null;
}

/** An internal snapshot of an open image, whose disk can be read. */
export interface ReadableSnapshot extends SnapshotDetails {
  /** bytes of its disk, which need not be those of the image's */
  readonly virtualSize: number;
}

/**
 * The internal snapshots of an open image that can be read, in the order in which the image has them. They stay as they are while
 * it is open.
 */
export interface Snapshots {
  readonly list: readonly ReadableSnapshot[];
  /** @param position in the list: neither ids nor names need be unique */
  open(position: number): SnapshotImage;
}

/** The disk of a snapshot. It has no files of its own, and nothing to close. */
export type SnapshotImage = Pick<ReadableImage, 'allocatedBytes' | 'backing' | 'mapContent' | 'read' | 'virtualSize'>;

/** Facts about an open image for `info` and `status`. */
export interface ImageDetails {
  readonly format: string;
  readonly virtualSize: number;
  /** null: the format has no clusters */
  readonly clusterSize: number | null;
  readonly dirty: boolean;
  /** its format is written, and an image of this kind is not; absent: false */
  readonly isOnlyRead?: boolean;
  /** its counters may be late, and it is marked dirty while it changes; absent: the image has no such choice */
  readonly lazyRefcounts?: boolean;
  readonly backing?: BackingReference;
  /** what an overlay that knows its parent by more than a name stores of this image; absent: nothing */
  readonly identity?: string;
  /** bytes of the guest's sectors, if the format says so */
  readonly sectorSize?: number;
  /** internal snapshots, when the image was not opened but inspected */
  readonly snapshots?: readonly SnapshotDetails[];
  /** format-specific facts with the keys of qemu-img's format-specific data */
  readonly specific: Readonly<Record<string, unknown>>;
}

/**
 * An open image as a reader sees it. All of it may be called from several threads at once, each through an object of its
 * own. A backing file is never more than this, so that nothing can write to one.
 */
export interface ReadableImage {
  readonly format: string;
  /** the file that was opened, which the others are named in */
  readonly file: HostFile;
  /** every file of the image, `file` first; their opener closes them */
  readonly files: readonly ImageFile[];
  /** granularity of allocation in bytes */
  readonly clusterSize: number;
  readonly readOnly: boolean;
  readonly backing: ReadableImage | null;
  /** what an overlay that knows its parent by more than a name has stored of this image; absent: nothing */
  readonly identity?: string;
  /** absent: the image has none, or nobody asked for them when it was opened */
  readonly snapshots?: Snapshots;

  virtualSize(): number;
  /**
   * Bytes of the virtual disk that have data clusters in this image's files. An estimate where isLazy was asked for, and of a
   * large image that is opened read-only.
   */
  allocatedBytes(): number;
  /** Reads [offset, offset + length), which lies inside the virtual size, through the backing chain. */
  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void;
  /** The first extent at `offset`, at most `length` bytes long; this image only, not its backing chain. */
  map(offset: GuestOffset, length: number): Extent;
  /** The same, but data goes on where it lies elsewhere in the file; may end before the status does. */
  mapStatus(offset: GuestOffset, length: number): StatusRun;
  /**
   * The same, but data that lies in a hole of its file is zero. True at this moment: a write to it changes no table. Not for who
   * is to write something in the place of zeros.
   */
  mapContent(offset: GuestOffset, length: number): StatusRun;
  /** Ends the work on the image; of one that was changed, flushes it and marks it clean. Its opener closes the files. */
  close(): void;
  /**
   * Another thread has died: whoever waits for what it held gets an error.
   * @param thread its `threadId` @param slot its reservation slot
   */
  abandon(thread: number, slot: number): void;
  details(): ImageDetails;
  share(): SharedImage;
}

/** What an image of a format that is only read is: there is nothing to stub. */
export interface ReadOnlyImage extends ReadableImage {
  readonly readOnly: true;
}

/** An image of a format that can be written, also where this one was opened read-only. */
export interface WritableImage extends ReadableImage {
  /** the image was turned read-only by an error; the sentence says which */
  failure(): string | null;
  /** Writes [offset, offset + length), which lies inside the virtual size. */
  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void;
  /** False where a discard gives no space back, here or on the host: it would write zeros, or take space for them. */
  canDiscard(): boolean;
  /** The range reads as zeros afterwards and its clusters are freed where the format can say so. */
  discard(offset: GuestOffset, length: number): void;
  /** The range reads as zeros afterwards. */
  writeZeroes(offset: GuestOffset, length: number): void;
  /** Takes host space for the range where it has none and reads as zeros; its content does not change. */
  preallocate(offset: GuestOffset, length: number): void;
  /** Whole clusters in which the range lies and which only the backing file has become this image's own (copy-on-read). */
  copyUp(offset: GuestOffset, length: number): void;
  /**
   * Whole clusters inside the range lose what they have and read from the backing file again, which has the same bytes, so that
   * children of this image stay its children; the last one of the disk counts as whole. A crash leaves each of them as it was or as it will be. Absent: the format has no backing files.
   */
  readonly deallocate?: (offset: GuestOffset, length: number) => void;
  /**
   * The backing file, which was written, shows with this image what it showed before, and has this identity now: stored durably.
   * Absent: the image knows no identity that a write changes.
   */
  readonly adoptParent?: (identity: string) => void;
  /** Changes the virtual size, if the format `can.resize`: else nobody asks. A grown part reads as zeros whatever the backing file holds. */
  resize(size: number): void;
  /** Returns when everything that was written before is on stable storage, metadata included. */
  flush(): void;
  /**
   * Work that must not wait for the next flush: links held back for their data, the dirty bit of an idle image.
   * @param nowMs of steadyMs()
   */
  maintain(nowMs: number): void;
  /** Flushes and clears the dirty bit if no request is in flight. */
  makeClean(): void;
  /** After close(): what the next open needs instead of a walk; null if it is not sound. Absent: the format walks nothing. */
  closedFacts?(): ClosedFacts | null;
}

/** What opening an image gives: `readOnly` false means that it is a WritableImage. */
export type Image = ReadOnlyImage | WritableImage;

/** What images of a format can be asked for, beside what the optional methods of its plug say. */
export interface Capabilities {
  /** false: every image of it is a ReadOnlyImage */
  readonly write: boolean;
  readonly resize: boolean;
  /** an image may be made with a backing file */
  readonly backing: boolean;
  readonly lazyRefcounts: boolean;
}

/** The plug. A file of the format is told by its Signature; see probe.ts in disk/. */
export interface ImageFormat<Opened extends Image = Image> extends Signature {
  /** as users type it, qemu-img's name where it has one */
  readonly name: string;
  /** other names that users type */
  readonly aliases?: readonly string[];
  /** with its article, as a sentence says it */
  readonly title: string;
  /** File names that only images of the format have. A raw disk with one is spoken of. Absent: raw disks have such names, too. */
  readonly usualName?: RegExp;
  readonly can: Capabilities;
  /** Name of the file by which a directory is an image of the format, and which is opened in its place. Absent: none is. */
  readonly directoryFile?: string;
  /**
   * Returns a working image, or throws and has changed nothing. Unless read-only, an image that was not closed clean is checked
   * and repaired, and one whose tables contradict each other is refused.
   */
  open(file: HostFile, options: OpenOptions): Opened;
  /** An object for another thread over the state of an open image. */
  attach(file: HostFile, shared: SharedImage, options: AttachOptions): Opened;
  /** of create(), with which it is there or absent */
  readonly createHelp?: CreateHelp;
  /**
   * Writes a new image into an empty file, durably; the disk has whole sectors. Throws usage for options the format does not
   * have. Absent: none can be made.
   */
  create?(file: HostFile, options: CreateOptions): void;
  /**
   * Makes an image that nobody has open name another backing file, or none. Durable when it returns, and a crash leaves the old
   * reference or the new one. Throws limit if the name has no room, usage if this cannot be its backing file, and has changed
   * nothing then. Absent: the reference cannot be changed.
   * @param parent absent: there is none, or its file is not there or cannot be read @param log takes warnings
   */
  setBacking?(
    file: HostFile,
    backing: BackingReference | null,
    parent?: ParentFacts,
    log?: (sentence: string) => void,
  ): void;
  /** The formats that a backing file of its images can have. Absent: all. */
  readonly backingFormats?: readonly string[];
  /** The program that refuses an image whose disk is not as long as its parent's. Absent: nobody does. */
  readonly refusesOtherSize?: string;
  /** Throws what setBacking() would throw because of these, so that no content is copied in vain. Absent: every backing file will do. */
  assertBacking?(file: HostFile, backing: BackingReference, parent?: ParentFacts): void;
  /** Checks without opening for requests. Absent: there is no check. */
  check?(file: HostFile, options: CheckOptions): CheckReport;
  /**
   * Reads and checks headers only. @param log takes one sentence for each thing that a truncated file has lost
   * @param openExtent as in OpenOptions, for reading; absent: what other files of the image say of themselves is left out
   */
  inspect(file: HostFile, log?: (sentence: string) => void, openExtent?: OpenOptions['openExtent']): ImageDetails;
}

/** A format whose images can be made and written. */
export type WritableFormat = ImageFormat<WritableImage> & Required<Pick<ImageFormat, 'create' | 'createHelp'>>;

/** The same, with a check. */
export type CheckedFormat = WritableFormat & Required<Pick<ImageFormat, 'check'>>;

/** What an image of any format passes to other threads. */
export function shareImage({ format, files, backing }: ReadableImage, state: unknown): SharedImage {
  return { format, files: files.map(({ file }) => file.share()), state, backing: backing?.share() ?? null };
}

/** `files` of an image that is one file. */
export function onlyFile(file: HostFile): readonly ImageFile[] {
  return [{ role: 'image', file }];
}

/** An image and the images below it, the top one first. */
export function imageChain(image: ReadableImage): ReadableImage[] {
  const chain: ReadableImage[] = [];
  for (let next: ReadableImage | null = image; next !== null; next = next.backing) chain.push(next);
  return chain;
}
