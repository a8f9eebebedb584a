// Opening a disk: the image that the user named, then the chain below it by the policy for backing files. It returns a working
// disk or throws, and what was opened on the way is closed again.

import { closeQuietly, closingOnFailure } from '../errors/close.ts';
import { assert, ImgfuseError } from '../errors/index.ts';
import type {
  BackingReference,
  Image,
  ImageFormat,
  OpenOptions,
  OpenStep,
  ReadableImage,
  SharedImage,
} from '../format/image-format.ts';
import { attachHostFile } from '../host/attach.ts';
import { isCopyOnReadStored } from '../host/copy-on-read-default.ts';
import type { HostFile } from '../host/host-file.ts';
import { type LockMode, writerOf } from '../host/image-locks.ts';
import { PosixHostFile } from '../host/posix-file.ts';
import { MAX_CHAIN_DEPTH, type NamedFile, type NamingImage, resolveBacking } from './backing-policy.ts';
import { ClosedMarks } from './closed-marks.ts';
import { CopyOnRead, createCopyOnReadState } from './copy-on-read.ts';
import { ImageFiles } from './image-files.ts';
import { assertIsBase, makeOverlay, noBase, type OverlaidImage } from './overlay.ts';
import { formatOf, probeFormat, recognizedName } from './probe.ts';
import { formatByName, formatNames, overlayFormat, rawFormat } from './registry.ts';
import { type SharedDisk, VirtualDisk } from './virtual-disk.ts';

const DEFAULT_TABLE_CACHE_BYTES = 64 * 1024 * 1024;

export interface OpenDiskOptions {
  readonly readOnly: boolean;
  /** absent: probed */
  readonly format?: string | undefined;
  /** directories and URLs in or below which backing files may lie, beside the image's own directory */
  readonly allowBacking?: readonly string[] | undefined;
  /** which of QEMU's image locks are taken, on every file of the chain; default: those of the opening */
  readonly locks?: LockMode | undefined;
  /** the same for the files of the images below the top one; default: `locks` */
  readonly locksBelow?: LockMode | undefined;
  /** the path is that of an overlay on this image, which is made if it is not there; `format` is that of this image */
  readonly overlaid?: OverlaidImage | undefined;
  /** bytes of the password of an encrypted image; they are overwritten after use. Throws if there is none */
  readonly password?: ((imagePath: string) => Uint8Array) | undefined;
  /** memory for cached tables of each image in bytes; default 64 MiB */
  readonly tableCacheBytes?: number | undefined;
  /**
   * clusters that are read from a backing file become the image's own; 'stored': if that is set on the image file itself
   * (copy-on-read-default.ts), and not when it is opened read-only. Default: no
   */
  readonly copyOnRead?: boolean | 'stored' | undefined;
  /** threads that use the disk at the same time, this one included; default 1 */
  readonly slots?: number | undefined;
  /** whether to use a backing file that is not the image its overlay was made on; default: it is refused */
  readonly anyParent?: boolean | undefined;
  /** qcow2: the counters may be late, and the image is marked dirty while it changes */
  readonly lazyRefcounts?: boolean | undefined;
  /** time in which every read must be answered, with an error if need be; default: no limit */
  readonly answerMs?: number | undefined;
  /** whether VirtualDisk.snapshots() is wanted; default: no */
  readonly snapshots?: boolean | undefined;
  /** directory of the marks of images that were closed clean (closed-marks.ts); default: every read-write open walks */
  readonly closedMarks?: string | undefined;
  /** called once for each repair and warning */
  readonly log?: ((sentence: string) => void) | undefined;
  /** told what the open is doing, for steps that may take long */
  readonly progress?: ((step: OpenStep) => void) | undefined;
}

/** Opens an image and its backing chain. Throws ImgfuseError; an unclean image is repaired unless `readOnly`. */
export function openDisk(path: string, options: OpenDiskOptions): VirtualDisk {
  const opener = new ChainOpener(options);
  const { overlaid } = options;
  if (overlaid === undefined) return diskOf(opener.openTop(path), options);
  // nobody opens a temporary file again
  const marks = overlaid.isTemporary ? { closedMarks: undefined } : {};
  return diskOf(opener.openOverlay(path, overlaid), { ...options, ...marks });
}

/** A file that is opened a second time. */
interface Before {
  /** null for a URL, which is found by its name again */
  readonly descriptor: number | null;
  readonly format: string;
}

/** Opens the file of an open disk a second time, even if its path leads to another file by now. */
export function reopenDisk(disk: VirtualDisk, options: OpenDiskOptions): VirtualDisk {
  const before = { descriptor: disk.descriptor, format: disk.format };
  return diskOf(new ChainOpener(options).openTop(disk.path, before), options);
}

/**
 * Closes a disk and opens its file again.
 * @returns the new disk, and the reason if the first one could not be closed clean
 * @throws ImgfuseError if it cannot be opened again; it is closed then
 */
export function closeAndReopenDisk(
  disk: VirtualDisk,
  options: OpenDiskOptions,
): { readonly disk: VirtualDisk; readonly failure: unknown } {
  // a descriptor that outlives the close: the path may lead to another file by now
  const file = PosixHostFile.reopen(disk.path, disk.descriptor!, true);
  let failure: unknown;
  try {
    try {
      disk.close();
    } catch (error) {
      failure = error;
    }
    const before = { descriptor: file.descriptor, format: disk.format };
    return { disk: diskOf(new ChainOpener(options).openTop(disk.path, before), options), failure };
  } finally {
    // its only purpose was the second opening: an error of its close must not take away the disk that is open now
    closeQuietly([file]);
  }
}

function diskOf(image: Image, options: OpenDiskOptions): VirtualDisk {
  const { closedMarks, copyOnRead, log = () => undefined } = options;
  if (image.readOnly) return new VirtualDisk(image);
  const marks = closedMarks === undefined ? null : new ClosedMarks(closedMarks);
  marks?.forget(image.file);
  const wanted = copyOnRead === 'stored' ? isCopyOnReadStored(image.file) : copyOnRead === true;
  if (!wanted) return new VirtualDisk(image, { marks });
  if (image.backing === null) log(`${image.file.path} has no backing file, so copy_on_read has nothing to do`);
  return new VirtualDisk(image, { copyOnRead: new CopyOnRead(image, createCopyOnReadState(), log), marks });
}

/** The same disk in another thread. @param slot from 0, below the slots it was opened with, used by no other thread */
export function attachDisk(
  shared: SharedDisk,
  slot: number,
  log: (sentence: string) => void = () => undefined,
): VirtualDisk {
  const image = attachImage(shared.image, slot, log);
  const copyOnRead = shared.copyOnRead && !image.readOnly ? new CopyOnRead(image, shared.copyOnRead, log) : null;
  return new VirtualDisk(image, { copyOnRead, lockWord: shared.resizeLock });
}

function attachImage(shared: SharedImage, slot: number, log: (sentence: string) => void): Image {
  const backing = shared.backing === null ? null : attachImage(shared.backing, slot, log);
  const [file, ...extents] = shared.files.map(attachHostFile);
  assert(file !== undefined, 'an image without a file');
  return formatByName(shared.format).attach(file, shared, { slot, backing, extents, recognizedName, log });
}

/** The advice is that for an image on a server. */
function neverWritten(path: string, { title }: ImageFormat): ImgfuseError {
  return new ImgfuseError(
    'read-only',
    `${path} is ${title}, and images of that format are only read; mount it with -o ro, or with -o overlay=FILE, which takes ` +
      'the changes',
    { path },
  );
}

class ChainOpener {
  private readonly options: OpenDiskOptions;
  private readonly files: ImageFiles;
  private images = 0;
  /** paths of the images whose password was asked for */
  private readonly encrypted = new Set<string>();

  constructor(options: OpenDiskOptions) {
    this.options = options;
    this.files = new ImageFiles(options);
  }

  openTop(path: string, before?: Before): Image {
    const { readOnly } = this.options;
    if (readOnly && this.options.copyOnRead === true) {
      throw new ImgfuseError(
        'usage',
        `${path} is opened read-only, and copy_on_read writes to it; leave out one of the two`,
        { path },
      );
    }
    return closingOnFailure(
      () => this.files.opened,
      () => this.openFirst(path, before),
    );
  }

  /** Opens an overlay, which is made first if it is not there. An overlay whose open fails is not there afterwards either. */
  openOverlay(path: string, overlaid: OverlaidImage): Image {
    const { format, locks, locksBelow = locks, log, readOnly } = this.options;
    const made = makeOverlay(path, overlaid, { readOnly, format, locks: locksBelow, log });
    if (made === null) {
      const image = this.openTop(path, { descriptor: null, format: overlayFormat.name });
      this.sayWhatIsNotEncrypted(image);
      return image;
    }
    const { descriptor, path: place } = made.file;
    try {
      const image = this.openTop(place, { descriptor, format: overlayFormat.name });
      if (!overlaid.isTemporary)
        closingOnFailure(
          () => this.files.opened,
          () => made.publish(),
        );
      this.sayWhatIsNotEncrypted(image);
      return image;
    } catch (error) {
      closeQuietly([{ close: () => made.discard() }]);
      throw error;
    } finally {
      closeQuietly([made.file]);
    }
  }

  private sayWhatIsNotEncrypted({ file, backing }: Image): void {
    const below = backing?.file.path ?? '';
    if (!this.encrypted.has(below) || this.encrypted.has(file.path)) return;
    this.options.log?.(
      `${below} is encrypted, and its overlay ${file.path} is not: what is written to the disk can be read there`,
    );
  }

  private openFirst(path: string, before?: Before): Image {
    const { overlaid, readOnly, lazyRefcounts } = this.options;
    const named = overlaid === undefined ? this.options.format : undefined;
    const file = this.files.open(path, readOnly, 'user', before?.descriptor ?? null);
    this.sayWhoIsNotKeptOut(file, this.options.locks);
    const format = formatOf(file, named, this.options.log);
    // a guest may have written the header of another format into a raw image that was guessed
    if (before !== undefined && format.name !== before.format) {
      throw new ImgfuseError(
        'usage',
        `${path} was ${before.format} when it was opened first and looks like ${format.name} now; ` +
          'unmount it, and mount it again with --format',
        { path },
      );
    }
    if (overlaid !== undefined && format.inspect(file).backing === undefined) throw noBase(path, overlaid.image);
    if (lazyRefcounts === true && !format.can.lazyRefcounts) {
      const names = formatNames(({ can }) => can.lazyRefcounts);
      throw new ImgfuseError('usage', `${path} is ${format.title}, and lazy_refcounts is for ${names}`, { path });
    }
    if (!readOnly && !format.can.write) throw neverWritten(path, format);
    const isLazy = file.remote !== undefined;
    const { closedMarks } = this.options;
    const isMarked = !readOnly && closedMarks !== undefined;
    const closedFacts = isMarked ? new ClosedMarks(closedMarks).find(file, format.name) : undefined;
    const wantsSnapshots = this.options.snapshots;
    return this.openImage(path, file, format, {
      ...{ readOnly, isLazy, closedFacts, wantsSnapshots },
      probed: named === undefined,
    });
  }

  /** The image below an overlay is the one that the user named, so the policy for backing files has no say. */
  private openOverlaid(overlay: NamingImage, reference: BackingReference, { image }: OverlaidImage): ReadableImage {
    const { format: named, log } = this.options;
    const file = this.files.openBelow(image, true, 'user');
    assertIsBase(overlay, reference, file, named);
    this.sayWhoIsNotKeptOut(file, this.options.locksBelow);
    const format = formatOf(file, reference.format ?? named, log);
    const opened = this.openImage(image, file, format, { readOnly: true, isLazy: true, probed: false });
    this.assertRightParent(overlay, reference, opened);
    return opened;
  }

  private openBacking(overlay: NamingImage, reference: BackingReference): ReadableImage {
    const { overlaid } = this.options;
    if (overlaid !== undefined && this.images === 1) return this.openOverlaid(overlay, reference, overlaid);
    if (this.images >= MAX_CHAIN_DEPTH) {
      throw new ImgfuseError(
        'limit',
        `the backing chain of ${this.files.opened[0]!.path} has more than ${MAX_CHAIN_DEPTH} images`,
      );
    }
    const found = this.resolveFirst(overlay, reference);
    const { name, path, device } = found;
    const said = reference.format ?? found.format;
    const file = this.files.openBelow(path, true, device === undefined ? 'image' : { device });
    const sayRaw = `store that it is raw with qemu-img rebase -u -F ${rawFormat.name} -b ${reference.name} ${overlay.path}`;
    const format = said === undefined ? probeFormat(file, sayRaw) : formatByName(said);
    if (said === undefined && format === rawFormat) {
      throw new ImgfuseError(
        'unsupported',
        `${overlay.path} does not say the format of its backing file ${path}, and raw is never guessed there; ` +
          `if that is what it is, ${sayRaw}`,
        { path: overlay.path },
      );
    }
    const image = this.openImage(name, file, format, { readOnly: true, isLazy: true, probed: false });
    this.assertRightParent(overlay, reference, image);
    return image;
  }

  /** The first of the names that leads to a file that may be opened. */
  private resolveFirst(overlay: NamingImage, { name, otherNames = [] }: BackingReference): NamedFile {
    const policy = { allowed: this.options.allowBacking ?? [] };
    const refusals: ImgfuseError[] = [];
    for (const each of [name, ...otherNames]) {
      try {
        return resolveBacking(overlay, each, policy);
      } catch (error) {
        if (!(error instanceof ImgfuseError && (error.kind === 'missing' || error.kind === 'permission'))) throw error;
        refusals.push(error);
      }
    }
    // what the user can allow comes before what is not there
    throw refusals.find(({ kind }) => kind === 'permission') ?? refusals[0]!;
  }

  /** An overlay on the wrong image shows a mixture of two disks, and nothing else would notice. */
  private assertRightParent(overlay: NamingImage, { identity }: BackingReference, image: ReadableImage): void {
    if (identity === undefined || (image.identity !== undefined && identity.values.includes(image.identity))) return;
    const { path } = image.file;
    const found =
      image.identity === undefined ? `it has no ${identity.word}` : `its ${identity.word} is ${image.identity}`;
    const wrong = `the backing file ${path} is not the image that ${overlay.path} was made on: ${found}, and ${identity.values.join(' or ')} is wanted`;
    if (this.options.anyParent === true) {
      this.options.log?.(`${wrong}; it is used because of any_parent, and the disk may be a mixture of two`);
      return;
    }
    throw new ImgfuseError(
      'usage',
      `${wrong}; put that image in its place, or open it all the same with any_parent (mount -o any_parent, else --any-parent)`,
      { path },
    );
  }

  private sayWhoIsNotKeptOut(file: HostFile, locks: LockMode | undefined): void {
    const { log } = this.options;
    if (locks === 'none') {
      log?.(`${file.path} is opened without locks: no other program is kept from writing to it at the same time`);
    } else if (locks === 'share') {
      const writer = writerOf(file);
      const now = writer === null ? '' : `; ${writer} has it open for writing`;
      log?.(`${file.path} is read beside its writer (share), so the disk may look inconsistent${now}`);
    }
  }

  private noting(password: OpenDiskOptions['password']): OpenDiskOptions['password'] {
    if (password === undefined) return undefined;
    return (path) => {
      this.encrypted.add(path);
      return password(path);
    };
  }

  private openImage(
    name: string,
    file: HostFile,
    format: ImageFormat,
    how: Pick<OpenOptions, 'readOnly' | 'isLazy' | 'probed' | 'closedFacts' | 'wantsSnapshots'>,
  ): Image {
    const { options } = this;
    const image: NamingImage = { name, path: file.path };
    const isTop = this.images++ === 0;
    return format.open(file, {
      ...how,
      openBacking: (reference) => this.openBacking(image, reference),
      openExtent: this.files.extentsOf(image, how.readOnly, isTop),
      password: this.noting(options.password),
      log: options.log ?? (() => undefined),
      tableCacheBytes: options.tableCacheBytes ?? DEFAULT_TABLE_CACHE_BYTES,
      slots: options.slots ?? 1,
      recognizedName,
      lazyRefcounts: options.lazyRefcounts,
      progress: options.progress,
    });
  }
}
