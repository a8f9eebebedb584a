// Gives an image another backing file. Safe: what it shows stays the same. Unsafe: only its header changes, for a backing file that
// was moved, or that the user knows to be the same. Order of durability of the safe way:
//
//   1 the image gets what differs between the old backing file and the new one   it is over the old one what it was
//   2 the image is flushed and marked clean                                      over either of them it shows the same now
//   3 its header names the new one, with one write                               (setBacking of the format)

import { closeAll, closingAfter, closingOnFailure } from '../../errors/close.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { BackingReference, Image, ImageFormat, ParentFacts, WritableImage } from '../../format/image-format.ts';
import type { HostFile } from '../../host/host-file.ts';
import { chainFiles } from '../chain.ts';
import { ChainOpener } from '../chain-opener.ts';
import { ClosedMarks } from '../closed-marks.ts';
import { ImageFiles } from '../image-files.ts';
import { inspectDisk } from '../info.ts';
import type { OpenDiskOptions } from '../open-options.ts';
import { assertChainFits, baseInDirectory, factsOfBase, locateBase } from '../overlay-base.ts';
import { formatOf } from '../probe.ts';
import { formatByName, formatNames, rawFormat } from '../registry.ts';
import { type CopyResult, copyDifferences } from './rebase.ts';

export interface RebaseDiskOptions extends Omit<OpenDiskOptions, 'readOnly' | 'writtenDepth' | 'overlaid'> {
  /** name of the new backing file, stored as given; empty: none */
  readonly backing: string;
  /** its format; absent: by its content, and never raw */
  readonly backingFormat?: string | undefined;
  /** only the header changes */
  readonly isUnsafe: boolean;
}

export interface DiskRebase {
  /** null: the image has no backing file afterwards */
  readonly reference: BackingReference | null;
  /** its last step changes the header */
  readonly work: Generator<number, CopyResult, void>;
  /** Closes everything, wherever the work is. @throws the first error */
  close(): void;
}

/** A new backing file that has been looked at. */
interface NewBacking {
  readonly reference: BackingReference;
  /** an absolute path, or a URL */
  readonly location: string;
  /** absent: there is no such file yet, or it cannot be read; only with isUnsafe */
  readonly facts?: ParentFacts;
}

/** @throws ImgfuseError usage, busy, limit, ...: nothing is open then, and no content has changed */
export function openRebase(path: string, options: RebaseDiskOptions): DiskRebase {
  const backing = options.backing === '' ? null : newBacking(path, options);
  return options.isUnsafe ? headerOnly(path, backing, options) : withContent(path, backing, options);
}

function newBacking(path: string, { backing, backingFormat, isUnsafe, log }: RebaseDiskOptions): NewBacking {
  const named = baseInDirectory(path, { name: backing, format: backingFormat ?? rawFormat.name });
  const { name } = named;
  const location = locateBase(path, named, 'is not rebased');
  const format = backingFormat === undefined ? probedFormat(name, location) : formatByName(backingFormat).name;
  // refuses a file of another format; with -u it need not be there
  const facts = factsOfBase(location, format, !isUnsafe, log);
  return { reference: { name, format }, location, ...(facts === null ? {} : { facts }) };
}

/** The format that the image stores for good: raw is not guessed, because its guest could write the header of another one. */
function probedFormat(name: string, location: string): string {
  let format: string;
  try {
    ({ format } = inspectDisk(location, { locks: 'share', rawOption: '-F' }));
  } catch (error) {
    if (!(error instanceof ImgfuseError) || error.kind !== 'missing') throw error;
    throw new ImgfuseError('missing', `${error.message}; say with -F what format it has (${formatNames(() => true)})`, {
      path: location,
    });
  }
  if (format !== rawFormat.name) return format;
  const message = `-b ${name} is raw, or of no format that is known here, and raw is never guessed: add -F ${rawFormat.name} if that is what it is`;
  throw new ImgfuseError('usage', message, { path: location });
}

function headerOnly(path: string, backing: NewBacking | null, options: RebaseDiskOptions): DiskRebase {
  const { allowBacking, format: named, locks, log } = options;
  const files = new ImageFiles({ allowBacking, locks });
  return closingOnFailure(
    () => files.opened,
    () => {
      const file = files.open(path, false, 'user');
      const format = rebasable(file, formatOf(file, named, log));
      assertFits(file, format, backing, options);
      return {
        reference: backing?.reference ?? null,
        work: changeHeader(file, format, backing, options),
        close: () => closeAll(files.opened),
      };
    },
  );
}

function* changeHeader(
  file: HostFile,
  format: Rebasable,
  backing: NewBacking | null,
  { closedMarks, log }: RebaseDiskOptions,
): Generator<number, CopyResult, void> {
  if (closedMarks !== undefined) new ClosedMarks(closedMarks).forget(file);
  format.setBacking(file, backing?.reference ?? null, backing?.facts, log);
  yield 1;
  return { dataBytes: 0, zeroBytes: 0 };
}

function withContent(path: string, backing: NewBacking | null, options: RebaseDiskOptions): DiskRebase {
  const opened: Image[] = [];
  const files = (): HostFile[] => opened.flatMap(chainFiles);
  return closingOnFailure(files, () => {
    const image = new ChainOpener({ ...options, readOnly: false }).openTop(path);
    opened.push(image);
    const format = rebasable(image.file, formatByName(image.format));
    assertFits(image.file, format, backing, options);
    if (image.readOnly) throw new ImgfuseError('read-only', `${path} cannot be changed`, { path });
    const below = backing === null ? null : openBelow(backing, options);
    if (below !== null) opened.push(below);
    if (options.closedMarks !== undefined) new ClosedMarks(options.closedMarks).forget(image.file);
    let isClosed = false;
    const end = (): void => {
      if (!isClosed) image.close();
      isClosed = true;
    };
    return {
      reference: backing?.reference ?? null,
      work: copyThenChange(image, below, end, () =>
        format.setBacking(image.file, backing?.reference ?? null, factsOf(backing, below), options.log),
      ),
      close: () => closingAfter(files, end),
    };
  });
}

function* copyThenChange(
  image: WritableImage,
  below: Image | null,
  end: () => void,
  nameBacking: () => void,
): Generator<number, CopyResult, void> {
  const result = yield* copyDifferences(image, below);
  end();
  nameBacking();
  return result;
}

/** It may have been written between the look at it and its opening, which keeps writers out. */
function factsOf(backing: NewBacking | null, below: Image | null): ParentFacts | undefined {
  if (backing?.facts === undefined || below?.identity === undefined) return backing?.facts;
  return { ...backing.facts, identity: below.identity };
}

/** The user has named it: only what lies below it is under the policy for backing files. */
function openBelow({ location, reference }: NewBacking, options: RebaseDiskOptions): Image {
  const { allowBacking, anyParent, locks, log, password } = options;
  const opener = new ChainOpener({
    allowBacking,
    anyParent,
    locks,
    log,
    password,
    readOnly: true,
    format: reference.format,
  });
  return opener.openTop(location);
}

type Rebasable = ImageFormat & Required<Pick<ImageFormat, 'setBacking'>>;

function rebasable(file: HostFile, format: ImageFormat): Rebasable {
  const { setBacking, title } = format;
  if (setBacking !== undefined) return { ...format, setBacking };
  const names = formatNames((each) => each.setBacking !== undefined);
  throw new ImgfuseError(
    'usage',
    `${file.path} is ${title}, and only ${names} images can be given another backing file`,
    {
      path: file.path,
    },
  );
}

function assertFits(
  file: HostFile,
  format: ImageFormat,
  backing: NewBacking | null,
  { allowBacking = [] }: RebaseDiskOptions,
): void {
  if (backing === null) return;
  const { facts, location, reference } = backing;
  const { backingFormats, title } = format;
  if (backingFormats?.includes(reference.format!) === false) {
    const taken = backingFormats.join(' or ');
    const message = `${file.path} is not rebased: the backing file of ${title} is ${taken}, and ${location} is ${reference.format}`;
    throw new ImgfuseError('usage', message, { path: file.path });
  }
  format.assertBacking?.(file, reference, facts);
  const base = { name: reference.name, format: reference.format! };
  assertChainFits(file, location, base, { what: 'the image', allowed: allowBacking });
}
