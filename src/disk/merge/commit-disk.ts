// Opens an overlay and the image below it that it is written back into, both for writing, and closes them in order.

import { type Closeable, closeAll, closingAfter, closingOnFailure } from '../../errors/close.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { type Image, imageChain, type ReadableImage, type WritableImage } from '../../format/image-format.ts';
import { isSameFile } from '../../host/file-identity.ts';
import { isUrl, parseUrl } from '../../host/http/url.ts';
import { lockImage } from '../../host/image-locks.ts';
import { identityAt } from '../../host/paths.ts';
import { chainFiles } from '../chain.ts';
import { ChainOpener } from '../chain-opener.ts';
import { ClosedMarks } from '../closed-marks.ts';
import { openImageFile } from '../image-file.ts';
import { inspectDisk } from '../info.ts';
import type { OpenDiskOptions } from '../open-options.ts';
import { imagesBelow, type NamedBelow } from '../overlay-base.ts';
import { formatOf } from '../probe.ts';
import { formatByName } from '../registry.ts';
import { type CommitResult, commitImages } from './commit.ts';

export interface CommitDiskOptions extends Omit<OpenDiskOptions, 'readOnly' | 'writtenDepth' | 'overlaid'> {
  /** the image to write into, a path or a URL; absent: the one right below */
  readonly base?: string | undefined;
  /** the overlay stays as it is */
  readonly isKept: boolean;
}

export interface DiskCommit {
  /** of the image that is written to */
  readonly base: string;
  /** that of the overlay, in bytes */
  readonly size: number;
  /** images between the two, which show a mixture afterwards */
  readonly between: number;
  readonly isKept: boolean;
  /** as commitImages() */
  readonly work: Generator<number, CommitResult, void>;
  /** Flushes, marks clean, closes; every step is tried even if another fails. @throws the first error */
  close(): void;
}

/** @throws ImgfuseError usage, busy, read-only, ...: nothing is open then, and no content has changed */
export function openCommit(path: string, options: CommitDiskOptions): DiskCommit {
  const { depth, target } = findBase(path, options);
  assertWritable(path, target);
  // content that is only needed further down would hide what lies above it
  const isKept = options.isKept || depth > 1;
  const readOnly = isKept && (depth > 1 || !hasToLearn(path, options));
  const opener = new ChainOpener({ ...options, readOnly, writtenDepth: depth });
  const top = opener.openTop(path);
  const base = imageChain(top)[depth] as WritableImage;
  const marks = options.closedMarks === undefined ? null : new ClosedMarks(options.closedMarks);
  const changed: WritableImage[] = top.readOnly ? [base] : [base, top];
  closingOnFailure(
    () => chainFiles(top),
    () => {
      assertKeepsItsParent(imageChain(top)[depth - 1]!);
      assertHasRoom(base, top.virtualSize());
      if (top.readOnly) assertClean(top);
      else if (!isKept) assertCanBeEmptied(top);
      for (const { file } of changed) marks?.forget(file);
    },
  );
  return {
    base: base.file.path,
    size: top.virtualSize(),
    between: depth - 1,
    isKept,
    work: commitImages(top, depth, isKept),
    // the base first: what the overlay gives up is there
    close: () => closeAll([...changed.map((image) => closing(image, marks)), ...chainFiles(top)]),
  };
}

/** Ends the work on an image whose file stays open. */
function closing(image: WritableImage, marks: ClosedMarks | null): Closeable {
  return {
    close: () => {
      image.close();
      const facts = image.closedFacts?.() ?? null;
      if (facts !== null) marks?.keep(image, facts);
    },
  };
}

/** What the overlay knows of its base changes when the base is written: an overlay that is kept gets it as well. */
function hasToLearn(path: string, { format, locks }: CommitDiskOptions): boolean {
  const file = openImageFile(path, true);
  return closingAfter(
    () => [file],
    () => {
      lockImage(file, locks);
      return formatOf(file, format).inspect(file).backing?.identity?.afterCommits !== undefined;
    },
  );
}

/** What other images know of their parent changes when it is written, and they would be refused from then on. */
function assertKeepsItsParent(image: ReadableImage): void {
  const identity = image.details().backing?.identity;
  if (identity === undefined || identity.afterCommits !== undefined) return;
  const { path } = image.file;
  throw new ImgfuseError(
    'unsupported',
    `${path} knows its base by its ${identity.word}, and every write to the base changes that: it could not be used with that base ` +
      'any more, not even to complete an interrupted commit; copy the disk into a new image instead, for example with qemu-img convert',
    { path },
  );
}

function assertHasRoom(base: WritableImage, size: number): void {
  const { can, title } = formatByName(base.format);
  const { path } = base.file;
  if (can.resize || size <= base.virtualSize()) return;
  throw new ImgfuseError(
    'unsupported',
    `the overlay has ${size} bytes and ${path} ${base.virtualSize()}, and it is ${title}, which keeps its size; copy the disk into a ` +
      'new image instead, for example with qemu-img convert',
    { path },
  );
}

/** An image that is only read is neither checked nor repaired. */
function assertClean(image: Image): void {
  if (!image.details().dirty) return;
  const { path } = image.file;
  throw new ImgfuseError(
    'usage',
    `${path} was not closed clean, and it is to stay as it is; repair it first with imgfuse check -r all ${path}`,
    { path },
  );
}

function assertCanBeEmptied(image: Image): void {
  if (!image.readOnly && image.deallocate !== undefined) return;
  const { path } = image.file;
  throw new ImgfuseError('unsupported', `${path} cannot be emptied; commit it with -d, which keeps it as it is`, {
    path,
  });
}

function findBase(
  path: string,
  { allowBacking = [], base, format, locks }: CommitDiskOptions,
): { depth: number; target: NamedBelow } {
  // says why, if the overlay cannot be read at all
  inspectDisk(path, { format, locks });
  let depth = 0;
  for (const target of imagesBelow({ path, format }, allowBacking)) {
    depth++;
    if (base === undefined || isMeant(target.path, base)) return { depth, target };
  }
  const what =
    base === undefined ? 'has no backing file, or none that can be found' : `has no ${base} in its backing chain`;
  throw new ImgfuseError(
    'usage',
    `${path} ${what}, so there is nothing to commit it into; "imgfuse info ${path}" shows it`,
    {
      path,
    },
  );
}

function isMeant(path: string, wanted: string): boolean {
  if (isUrl(path) || isUrl(wanted))
    return isUrl(path) && isUrl(wanted) && parseUrl(path).href === parseUrl(wanted).href;
  const [found, meant] = [identityAt(path), identityAt(wanted)];
  return found !== null && meant !== null && isSameFile(found, meant);
}

function assertWritable(overlay: string, { path, format }: NamedBelow): void {
  const plug = format === undefined ? undefined : formatByName(format);
  const why = isUrl(path)
    ? 'is read over HTTP and cannot be changed'
    : plug?.can.write === false
      ? `is ${plug.title}, and images of that format are only read`
      : null;
  if (why === null) return;
  const cure = 'copy the disk into a new image instead, for example with qemu-img convert';
  throw new ImgfuseError('read-only', `${overlay} cannot be committed: ${path} ${why}; ${cure}`, { path });
}
