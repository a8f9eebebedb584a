// The plug of Parallels. Images of one file, of both kinds, are read and written; disks of several files with their snapshots, which a
// DiskDescriptor.xml lists, are read.

import { type ErrorKind, ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { endsOf, type FileEnds } from '../file-ends.ts';
import type { AttachOptions, Image, ImageFormat, OpenOptions, SharedImage } from '../image-format.ts';
import { PieceImage, type PieceState } from '../piece-image.ts';
import { createParallels } from './create.ts';
import { PARALLELS_CREATE_HELP } from './create-help.ts';
import { describeHeader, readHeader } from './header.ts';
import { inspectDisk } from './inspect-disk.ts';
import { openDisk } from './open-disk.ts';
import { checkPlain } from './plain/check.ts';
import { plainImage } from './plain/image.ts';
import { openPlain } from './plain/open.ts';
import type { PlainState } from './plain/state.ts';
import { DESCRIPTOR_FILE, DESCRIPTOR_MAGICS, DESCRIPTOR_ROOT, HEADER_MAGIC, HEADER_MAGIC2 } from './signature.ts';

export const parallels: ImageFormat & Required<Pick<ImageFormat, 'check' | 'create' | 'createHelp'>> = {
  name: 'parallels',
  title: 'a Parallels image',
  usualName: /\.hdd$/i,
  magics: [HEADER_MAGIC, HEADER_MAGIC2, ...DESCRIPTOR_MAGICS].map((text) => ({ at: 0, text })),
  // not every XML document is one
  confirms: (ends) => !isMarkup(ends) || headOf(ends).includes(`<${DESCRIPTOR_ROOT}`),
  directoryFile: DESCRIPTOR_FILE,
  can: { write: true, resize: true, backing: false, lazyRefcounts: false },
  createHelp: PARALLELS_CREATE_HELP,
  open: openParallels,
  attach: attachParallels,
  create: createParallels,
  check: (file, options) => {
    if (!isDescriptor(file)) return checkPlain(file, options);
    throw ofSeveralFiles('unsupported', 'check', file, 'which have to be checked one by one');
  },
  inspect: (file, log, openExtent) =>
    isDescriptor(file) ? inspectDisk(file, log, openExtent) : describeHeader(readHeader(file)),
};

function openParallels(file: HostFile, options: OpenOptions): Image {
  if (!isDescriptor(file)) return openPlain(file, options);
  if (options.readOnly) return openDisk(file, options);
  throw ofSeveralFiles(
    'read-only',
    'open',
    file,
    'which are only read; mount it with -o ro, or with -o overlay=FILE, which takes the changes',
  );
}

function attachParallels(file: HostFile, { state }: SharedImage, { extents, log, slot }: AttachOptions): Image {
  const isDisk = 'places' in (state as PieceState | PlainState);
  return isDisk ? new PieceImage(file, state as PieceState, extents) : plainImage(file, state as PlainState, slot, log);
}

function ofSeveralFiles(kind: ErrorKind, operation: string, { path }: HostFile, what: string): ImgfuseError {
  return new ImgfuseError(kind, `${path} is a Parallels disk of several files, ${what}`, { path, operation });
}

function isDescriptor(file: HostFile): boolean {
  return isMarkup(endsOf(file));
}

function isMarkup(ends: FileEnds): boolean {
  return DESCRIPTOR_MAGICS.some((text) => ends.has({ at: 0, text }));
}

function headOf({ head }: FileEnds): string {
  return Buffer.from(head).toString('latin1');
}
