// The package as a library: disk images read and written without a mount. All of it is synchronous.
// Invariant: what is exported here is the whole promise to users of the package; what lies behind it may change.

import { guestOffset } from './bytes/offsets.ts';
import {
  createDisk as createImage,
  formats as formatPlugs,
  inspectDisk,
  openDisk as openVirtualDisk,
  type VirtualDisk,
} from './disk/index.ts';
import { ImgfuseError } from './errors/index.ts';

export { type ErrorContext, type ErrorKind, ImgfuseError } from './errors/index.ts';

/** A format of disk images. */
export interface Format {
  /** as in `format` of the functions here: qcow2, qed, raw, ... */
  readonly name: string;
  /** images of it can be opened read-write */
  readonly canWrite: boolean;
  /** images of it can be made */
  readonly canCreate: boolean;
  /** images of it can be made with a backing file */
  readonly canHaveBacking: boolean;
}

/** Every format that can be opened. */
export const formats: readonly Format[] = formatPlugs.map(({ name, can, create }) => ({
  name,
  canWrite: can.write,
  canCreate: create !== undefined,
  canHaveBacking: can.backing,
}));

/** What the header of an image says. */
export interface ImageInfo {
  readonly format: string;
  /** bytes of the disk */
  readonly virtualSize: number;
  /** bytes; null if the format has no clusters */
  readonly clusterSize: number | null;
  /** it was not closed clean */
  readonly isDirty: boolean;
  /** as stored in the image; null: none */
  readonly backingFile: string | null;
  readonly backingFormat: string | null;
}

export interface ProbeOptions {
  /** absent: the content decides */
  readonly format?: string | undefined;
  /** false: a running virtual machine may write to the image meanwhile; default: then it is refused */
  readonly lock?: boolean | undefined;
}

/**
 * Reads the header of an image, and nothing else; backing files are not opened.
 * @throws ImgfuseError missing, permission, busy (another program writes to it), unsupported (a format that is not opened here), corrupt
 */
export function probe(path: string, options: ProbeOptions = {}): ImageInfo {
  const info = inspectDisk(path, { format: options.format, locks: options.lock === false ? 'none' : 'take' });
  return {
    format: info.format,
    virtualSize: info.virtualSize,
    clusterSize: info.clusterSize,
    isDirty: info.dirty,
    backingFile: info.backingFilename ?? null,
    backingFormat: info.backingFormat ?? null,
  };
}

export interface CreateOptions {
  /** bytes of the disk; absent: those of the backing file */
  readonly size?: number | undefined;
  /** format options as in "imgfuse create -o": { cluster_size: '64k' } */
  readonly options?: Readonly<Record<string, string>> | undefined;
  /** name of the backing file, stored as it is; a relative one is relative to the new image */
  readonly backingFile?: string | undefined;
  /** needed with a backing file */
  readonly backingFormat?: string | undefined;
  /** bytes of the password of an encrypted image; they are overwritten */
  readonly password?: Uint8Array | undefined;
  /** gets one sentence for each warning */
  readonly log?: ((sentence: string) => void) | undefined;
}

/**
 * Makes an image. An existing file is never overwritten, and whatever fails leaves no file.
 * @returns the size of its disk in bytes
 * @throws ImgfuseError usage, missing, permission, no-space
 */
export function createDisk(path: string, format: string, options: CreateOptions = {}): number {
  const { password } = options;
  const made = createImage(path, format, {
    size: options.size,
    options: new Map(Object.entries(options.options ?? {})),
    backing: options.backingFile,
    backingFormat: options.backingFormat,
    log: options.log,
    ...(password === undefined ? {} : { password: () => password }),
  });
  return made.virtualSize;
}

export interface OpenOptions {
  /** default: true. A read-write open repairs an image that was not closed clean, and takes the locks of a writer */
  readonly readOnly?: boolean | undefined;
  /** absent: the content decides */
  readonly format?: string | undefined;
  /** directories and URLs in or below which backing files may lie, beside the directory of the image */
  readonly allowBacking?: readonly string[] | undefined;
  /** false: no locks, for file systems without them; another program must not write to the image meanwhile */
  readonly lock?: boolean | undefined;
  /** bytes of the password of an encrypted image; they are overwritten */
  readonly password?: Uint8Array | undefined;
  /** gets one sentence for each repair and warning */
  readonly log?: ((sentence: string) => void) | undefined;
}

/** Bytes of a disk that are stored in one way. */
export interface Extent {
  readonly start: number;
  readonly length: number;
  /** unallocated: no image of the chain has them, and they read as zeros */
  readonly status: 'data' | 'zero' | 'compressed' | 'unallocated';
  /** 0: the image itself; 1: its backing file; ... */
  readonly depth: number;
  /** where they are in that file, if they are there as they are */
  readonly hostOffset?: number;
}

/** An open disk. Offsets and lengths are bytes; every method throws ImgfuseError. */
export interface Disk {
  readonly path: string;
  readonly format: string;
  readonly readOnly: boolean;
  /** bytes */
  readonly size: number;
  readonly clusterSize: number;
  /** @returns bytes read: fewer than the target has only at the end of the disk */
  read(target: Uint8Array, offset: number): number;
  /** Nothing is durable before flush() or close(). @returns bytes written: fewer than the source has only at the end */
  write(source: Uint8Array, offset: number): number;
  /** The range reads as zeros, and the host gets its space back where that is possible. */
  discard(offset: number, length: number): void;
  /** The range reads as zeros. */
  writeZeroes(offset: number, length: number): void;
  /** Not in every format. What is cut off is lost. */
  resize(size: number): void;
  /** Returns when all that was written is on stable storage. */
  flush(): void;
  /** What the disk is made of, through the backing chain; neighbours may say the same. */
  extents(): Iterable<Extent>;
  /** Flushes, marks the image clean, frees its locks. Must be called, also after an error. */
  close(): void;
}

/**
 * Opens an image and its backing chain.
 * @throws ImgfuseError missing, permission, busy (another program uses it), corrupt, unsupported, usage
 */
export function openDisk(path: string, options: OpenOptions = {}): Disk {
  const { password } = options;
  return new OpenDisk(
    openVirtualDisk(path, {
      readOnly: options.readOnly ?? true,
      format: options.format,
      allowBacking: options.allowBacking,
      locks: options.lock === false ? 'none' : 'take',
      log: options.log,
      ...(password === undefined ? {} : { password: () => password }),
    }),
  );
}

class OpenDisk implements Disk {
  private open: VirtualDisk | null;
  readonly path: string;
  readonly format: string;
  readonly readOnly: boolean;
  readonly clusterSize: number;

  constructor(disk: VirtualDisk) {
    this.open = disk;
    this.path = disk.path;
    this.format = disk.format;
    this.readOnly = disk.readOnly;
    this.clusterSize = disk.clusterSize;
  }

  get size(): number {
    return this.disk.size();
  }

  read(target: Uint8Array, offset: number): number {
    return this.disk.read(target, 0, target.length, guestOffset(this.checked('offset', offset)));
  }

  write(source: Uint8Array, offset: number): number {
    return this.disk.write(source, 0, source.length, guestOffset(this.checked('offset', offset)));
  }

  discard(offset: number, length: number): void {
    this.disk.discard(this.checked('offset', offset), this.checked('length', length));
  }

  writeZeroes(offset: number, length: number): void {
    this.disk.writeZeroes(this.checked('offset', offset), this.checked('length', length));
  }

  resize(size: number): void {
    this.disk.resize(this.checked('size', size));
  }

  flush(): void {
    this.disk.flush();
  }

  *extents(): Generator<Extent, void> {
    for (const { start, length, status, depth, hostOffset } of this.disk.extents()) {
      yield { start, length, status, depth, ...(hostOffset === undefined ? {} : { hostOffset }) };
    }
  }

  close(): void {
    const { disk } = this;
    this.open = null;
    disk.close();
  }

  private get disk(): VirtualDisk {
    if (this.open !== null) return this.open;
    throw new ImgfuseError('usage', `${this.path} is closed`, { path: this.path });
  }

  private checked(what: string, value: number): number {
    if (Number.isSafeInteger(value) && value >= 0) return value;
    throw new ImgfuseError('usage', `the ${what} ${value} is no whole number of bytes`, { path: this.path });
  }
}
