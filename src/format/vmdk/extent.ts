// One extent of a VMDK image that maps its data with tables of its own, in one file: what each kind of them offers (ExtentKind), and
// what an open one is (Extent). It reads and writes like a small disk image: guest offset 0 is its own first byte, and its
// `backing`, if any, begins there as well. Nothing here knows the descriptor or the other extents.

import type { HostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { CheckReport } from '../check-report.ts';
import type { CheckOptions, OpenOptions, ReadableImage, ReadOnlyImage, WritableImage } from '../image-format.ts';

/** What the header of an extent says, every field checked. */
export interface ExtentFacts {
  /** bytes of the disk that the extent holds; need not be whole grains */
  readonly capacity: number;
  readonly grainBytes: number;
  readonly isCompressed: boolean;
  /** it was not closed clean */
  readonly isUnclean: boolean;
  /** bytes in which a descriptor is kept, padded with NUL; null: there is no room for one */
  readonly descriptor: { readonly offset: HostOffset; readonly length: number } | null;
  /** why it is only read, as a sentence goes on after "FILE is"; null: it can be written */
  readonly onlyRead: string | null;
}

export interface OpenExtentOptions
  extends Pick<OpenOptions, 'closedFacts' | 'isLazy' | 'log' | 'progress' | 'readOnly' | 'slots' | 'tableCacheBytes'> {
  /** the image below, from the first byte of the extent on; null: what is not mapped reads as zeros */
  readonly backing: ReadableImage | null;
  /** false: it keeps its size, because another extent follows it */
  readonly mayGrow?: boolean | undefined;
}

export interface AttachExtentOptions {
  readonly slot: number;
  /** as in OpenExtentOptions, of this thread */
  readonly backing: ReadableImage | null;
  readonly log: (sentence: string) => void;
}

/** An extent that can be written, also where it was opened read-only. */
export interface WritableExtent extends WritableImage {
  /**
   * The mark of an extent that is not closed clean is durable when it returns, as before every change of its own (R7). Does nothing
   * if it is. Called without the metadata lock.
   */
  markUnclean(): void;
}

/** `share().state` is what attach() of its kind takes. */
export type Extent = ReadOnlyImage | WritableExtent;

export interface CreateExtentOptions {
  /** bytes of the disk, whole sectors */
  readonly capacity: number;
  /** the descriptor that the extent is to hold; null: it stands in a file of its own */
  readonly descriptor: string | null;
  /** bytes that are kept free for a descriptor that grows; whole sectors */
  readonly descriptorBytes: number;
  /** a power of two from 4 KiB on */
  readonly grainBytes: number;
  /** grain table entries that stand for zeros are allowed */
  readonly zeroedGrain: boolean;
}

export interface CheckExtentOptions extends Pick<CheckOptions, 'log' | 'progress' | 'repair'> {
  /** what is not mapped is in the image below, which is not opened for a check */
  readonly hasBacking: boolean;
}

/** One kind of extent file. Nothing is opened here: files are passed in, and closed by who opened them. */
export interface ExtentKind<Opened extends Extent = Extent> {
  /** as an extent line of the descriptor calls it */
  readonly type: 'SPARSE' | 'VMFSSPARSE' | 'SESPARSE';
  /** for the middle of a sentence, with its article */
  readonly title: string;
  /** @param head the first 512 bytes of the file, or fewer */
  matches(head: Uint8Array): boolean;
  /** Reads the header only. @throws ImgfuseError corrupt, unsupported, limit */
  inspect(file: HostFile): ExtentFacts;
  /**
   * A working extent, or throws and has changed nothing. Unless read-only, one that was not closed clean is checked and repaired.
   * Throws unsupported if it is to be written and is only read.
   */
  open(file: HostFile, options: OpenExtentOptions): Opened;
  /** @param state of share() of the open extent */
  attach(file: HostFile, state: unknown, options: AttachExtentOptions): Opened;
  /** Writes a new extent into an empty file, durably. Absent: none is made. */
  create?(file: HostFile, options: CreateExtentOptions): void;
  /** Checks without opening for requests. Absent: there is no check. */
  check?(file: HostFile, options: CheckExtentOptions): CheckReport;
}
