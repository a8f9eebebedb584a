// Opening a disk: the image that the user named, then the chain below it by the policy for backing files. It returns a working
// disk or throws, and what was opened on the way is closed again.

import { closeQuietly } from '../errors/close.ts';
import { assert } from '../errors/index.ts';
import type { Image, SharedImage } from '../format/image-format.ts';
import { attachHostFile } from '../host/attach.ts';
import { isCopyOnReadStored } from '../host/copy-on-read-default.ts';
import { mayHaveWriter } from '../host/image-locks.ts';
import { PosixHostFile } from '../host/posix-file.ts';
import { ChainOpener } from './chain-opener.ts';
import { ClosedMarks } from './closed-marks.ts';
import { CopyOnRead, createCopyOnReadState } from './copy-on-read.ts';
import { imageFileOf } from './directory-image.ts';
import type { OpenDiskOptions } from './open-options.ts';
import { recognizedName } from './probe.ts';
import { formatByName } from './registry.ts';
import { lookUntilWhole } from './share/first-look.ts';
import { ImageBesideWriter } from './share/image-beside-writer.ts';
import { type SharedDisk, VirtualDisk } from './virtual-disk.ts';

/** Opens an image and its backing chain. Throws ImgfuseError; an unclean image is repaired unless `readOnly`. */
export function openDisk(path: string, given: OpenDiskOptions): VirtualDisk {
  const options = withoutDirectory(given);
  const { locks, locksBelow, log, readOnly } = options;
  const hasWriter = (readOnly && mayHaveWriter(locks)) || mayHaveWriter(locksBelow);
  return lookUntilWhole(hasWriter, log, (each) => openOnce(path, { ...options, log: each }));
}

function openOnce(path: string, options: OpenDiskOptions): VirtualDisk {
  const opener = new ChainOpener(options);
  const { overlaid } = options;
  if (overlaid === undefined) return diskOf(opener.openTop(imageFileOf(path)), options);
  // nobody opens a temporary file again
  const marks = overlaid.isTemporary ? { closedMarks: undefined } : {};
  const { image, isNew } = opener.openOverlay(path, overlaid);
  return diskOf(image, { ...options, ...marks }, isNew);
}

/** Opens the file of an open disk a second time, even if its path leads to another file by now. */
export function reopenDisk(disk: VirtualDisk, options: OpenDiskOptions): VirtualDisk {
  const before = { descriptor: disk.descriptor, format: disk.format };
  return diskOf(new ChainOpener(withoutDirectory(options)).openTop(disk.path, before), options);
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
    return { disk: diskOf(new ChainOpener(withoutDirectory(options)).openTop(disk.path, before), options), failure };
  } finally {
    // its only purpose was the second opening: an error of its close must not take away the disk that is open now
    closeQuietly([file]);
  }
}

/** An image that is a directory below an overlay is opened by its file. */
function withoutDirectory(options: OpenDiskOptions): OpenDiskOptions {
  const { overlaid } = options;
  return overlaid === undefined
    ? options
    : { ...options, overlaid: { ...overlaid, image: imageFileOf(overlaid.image) } };
}

function diskOf(image: Image, options: OpenDiskOptions, isNew = false): VirtualDisk {
  const { closedMarks, copyOnRead, log = () => undefined } = options;
  if (image.readOnly) return new VirtualDisk(image);
  const marks = closedMarks === undefined ? null : new ClosedMarks(closedMarks);
  marks?.forget(image.file);
  const wanted = copyOnRead === 'stored' ? isCopyOnReadStored(image.file) : copyOnRead === true;
  if (!wanted) return new VirtualDisk(image, { marks, isNew });
  if (image.backing === null) log(`${image.file.path} has no backing file, so copy_on_read has nothing to do`);
  return new VirtualDisk(image, { copyOnRead: new CopyOnRead(image, createCopyOnReadState(), log), marks, isNew });
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
  const format = formatByName(shared.format);
  const image = format.attach(file, shared, { slot, backing, extents, recognizedName, log });
  return shared.rounds === undefined ? image : new ImageBesideWriter(format, image, shared.rounds);
}
