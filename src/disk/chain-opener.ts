// Opens the images of a chain: the one that the user named, then the images below it by the policy for backing files. Each file is
// locked before a byte of it is read. Invariant: what was opened is closed again, whatever fails.

import { closeQuietly, closingOnFailure } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import { isMeant } from '../format/backing-reference.ts';
import type { BackingReference, Image, ImageFormat, OpenOptions, ReadableImage } from '../format/image-format.ts';
import type { HostFile } from '../host/host-file.ts';
import { type LockMode, mayHaveWriter, writerOf } from '../host/image-locks.ts';
import { MAX_CHAIN_DEPTH, type NamedFile, type NamingImage, resolveBacking } from './backing-policy.ts';
import { ClosedMarks } from './closed-marks.ts';
import { ImageFiles } from './image-files.ts';
import type { OpenDiskOptions } from './open-options.ts';
import { assertIsBase, laterChange, makeOverlay, noBase, type OverlaidImage } from './overlay.ts';
import { isParentAt, searchParent } from './parent-search.ts';
import { sayUnequalSizes } from './parent-size.ts';
import { formatOf, probeFormat, recognizedName } from './probe.ts';
import { formatByName, formatNames, overlayFormat, rawFormat } from './registry.ts';
import { createRounds, ImageBesideWriter } from './share/image-beside-writer.ts';

const DEFAULT_TABLE_CACHE_BYTES = 64 * 1024 * 1024;

/** A file that is opened a second time. */
export interface Before {
  /** null for a URL, which is found by its name again */
  readonly descriptor: number | null;
  readonly format: string;
}

/** What is not allowed may not be there either: a place where it is looked for, and may be put, is the other way out. */
function withOtherPlace(refused: ImgfuseError, refusals: readonly ImgfuseError[]): ImgfuseError {
  const place = refusals.find(({ kind }) => kind === 'missing')?.context.path;
  if (refused.kind === 'missing' || place === undefined) return refused;
  return new ImgfuseError(refused.kind, `${refused.message}, or put it at ${place}`, refused.context);
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

export class ChainOpener {
  private readonly options: OpenDiskOptions;
  private readonly files: ImageFiles;
  private images = 0;
  /** the overlay was made for this opening, so what its image is was guessed, unless the user has said it */
  private isOverlayNew = false;
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
  openOverlay(path: string, overlaid: OverlaidImage): { readonly image: Image; readonly isNew: boolean } {
    const { format, locks, locksBelow = locks, log, readOnly } = this.options;
    const made = makeOverlay(path, overlaid, { readOnly, format, locks: locksBelow, log });
    if (made === null) {
      const image = this.openTop(path, { descriptor: null, format: overlayFormat.name });
      this.sayWhatIsNotEncrypted(image);
      return { image, isNew: false };
    }
    this.isOverlayNew = true;
    const { descriptor, path: place } = made.file;
    try {
      const image = this.openTop(place, { descriptor, format: overlayFormat.name });
      if (!overlaid.isTemporary)
        closingOnFailure(
          () => this.files.opened,
          () => made.publish(),
        );
      this.sayWhatIsNotEncrypted(image);
      return { image, isNew: !overlaid.isTemporary };
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
    const closedFacts = readOnly ? undefined : this.closedFactsOf(file, format);
    const wantsSnapshots = this.options.snapshots;
    const image = this.openImage(path, file, format, {
      ...{ readOnly, isLazy, closedFacts, wantsSnapshots },
      probed: named === undefined,
    });
    if (this.options.writtenDepth === undefined) this.adoptParent(image);
    sayUnequalSizes(image, (sentence) => this.options.log?.(sentence));
    return image;
  }

  /**
   * A commit of the image was broken off, and its parent has a name that follows from the state of the image. The first write would make
   * that another state, so the image learns the name before.
   */
  private adoptParent(image: Image): void {
    const known = image.details().backing?.identity;
    const now = image.backing?.identity;
    if (image.readOnly || known === undefined || now === undefined) return;
    if (isMeant({ ...known, afterCommits: [] }, now) || !isMeant(known, now)) return;
    image.adoptParent?.(now);
    this.options.log?.(
      `a commit of ${image.file.path} into ${image.backing!.file.path} was broken off; the disk is whole, and imgfuse commit completes it`,
    );
  }

  private closedFactsOf(file: HostFile, format: ImageFormat): OpenOptions['closedFacts'] {
    const { closedMarks } = this.options;
    return closedMarks === undefined ? undefined : new ClosedMarks(closedMarks).find(file, format.name);
  }

  /** The image below an overlay is the one that the user named, so the policy for backing files has no say. */
  private openOverlaid(overlay: NamingImage, reference: BackingReference, { image }: OverlaidImage): ReadableImage {
    const { format: named, log } = this.options;
    const file = this.files.openBelow(image, true, 'user');
    assertIsBase(overlay, reference, file, named);
    this.sayWhoIsNotKeptOut(file, this.options.locksBelow);
    const mixture = laterChange(this.files.opened[0]!, file);
    if (mixture !== null) log?.(mixture);
    const format = formatOf(file, reference.format ?? named, log);
    const opened = this.openImage(image, file, format, {
      ...{ readOnly: true, isLazy: true, probed: this.isOverlayNew && named === undefined },
      wantsSnapshots: this.options.snapshots,
    });
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
    const readOnly = this.images !== this.options.writtenDepth;
    const file = this.files.openBelow(path, readOnly, device === undefined ? 'image' : { device });
    const sayRaw = `store that it is raw with imgfuse rebase -u -F ${rawFormat.name} -b ${reference.name} ${overlay.path}`;
    const format = said === undefined ? probeFormat(file, sayRaw) : formatByName(said);
    if (said === undefined && format === rawFormat) {
      throw new ImgfuseError(
        'unsupported',
        `${overlay.path} does not say the format of its backing file ${path}, and raw is never guessed there; ` +
          `if that is what it is, ${sayRaw}`,
        { path: overlay.path },
      );
    }
    const closedFacts = readOnly ? undefined : this.closedFactsOf(file, format);
    const committedFrom = readOnly ? undefined : reference.identity;
    const how = { readOnly, isLazy: readOnly, probed: false, closedFacts, committedFrom };
    const image = this.openImage(name, file, format, how);
    this.assertRightParent(overlay, reference, image);
    return image;
  }

  /** Of the names that lead to a file that may be opened the first that leads to the image that is meant, else the first. */
  private resolveFirst(overlay: NamingImage, reference: BackingReference): NamedFile {
    const policy = { allowed: this.options.allowBacking ?? [] };
    const { name, otherNames = [] } = reference;
    const searched = searchParent(overlay, reference, policy);
    if (searched !== null) return searched;
    const found: NamedFile[] = [];
    const refusals: ImgfuseError[] = [];
    for (const each of [name, ...otherNames]) {
      try {
        found.push(resolveBacking(overlay, each, policy));
      } catch (error) {
        if (!(error instanceof ImgfuseError && (error.kind === 'missing' || error.kind === 'permission'))) throw error;
        refusals.push(error);
      }
    }
    // what the user can allow comes before what is not there, and before an image that is not the one
    const refused = refusals.find(({ kind }) => kind === 'permission');
    if (found.length === 0) throw withOtherPlace(refused ?? refusals[0]!, refusals);
    const isAlone = found.length + (refused === undefined ? 0 : 1) === 1;
    // without a format there is no telling which image it is
    if (isAlone || reference.format === undefined) return found[0]!;
    const meant = found.find((file) => isParentAt(file.path, reference));
    if (meant === undefined && refused !== undefined && this.options.anyParent !== true) throw refused;
    return meant ?? found[0]!;
  }

  /** An overlay on the wrong image shows a mixture of two disks, and nothing else would notice. */
  private assertRightParent(overlay: NamingImage, { identity }: BackingReference, image: ReadableImage): void {
    if (identity === undefined || (image.identity !== undefined && isMeant(identity, image.identity))) return;
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
    how: Pick<OpenOptions, 'readOnly' | 'isLazy' | 'probed' | 'closedFacts' | 'committedFrom' | 'wantsSnapshots'>,
  ): Image {
    const { options } = this;
    const image: NamingImage = { name, path: file.path };
    const isTop = this.images++ === 0;
    const opened = format.open(file, {
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
    const { locks, locksBelow = locks } = options;
    const isBesideWriter = opened.readOnly && file.remote === undefined && mayHaveWriter(isTop ? locks : locksBelow);
    return isBesideWriter ? new ImageBesideWriter(format, opened, createRounds()) : opened;
  }
}
