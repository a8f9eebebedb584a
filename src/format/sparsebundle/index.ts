// The plug of sparsebundles of macOS (UDSB), read-only: a directory, of which Info.plist stands for the image.

import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { XML_STARTS } from '../file-ends.ts';
import type { AttachOptions, ImageDetails, ImageFormat, OpenOptions, SharedImage } from '../image-format.ts';
import { BANDS, describeBundle, openToken, readBundle } from './bundle.ts';
import { BundleImage } from './image.ts';

/** Property lists begin so; the last two without a declaration. */
const LIST_MAGICS = [...XML_STARTS, '<!DOCTYPE plist', '<plist'];
/** In the first bytes of the list, because its keys are in order; not every list is one. */
const BAND_KEY = '<key>band-size</key>';

export const sparsebundle: ImageFormat<BundleImage> = {
  name: 'sparsebundle',
  title: 'a sparsebundle (macOS)',
  magics: LIST_MAGICS.map((text) => ({ at: 0, text })),
  confirms: ({ head }) => Buffer.from(head).toString('latin1').includes(BAND_KEY),
  directoryFile: 'Info.plist',
  can: { write: false, resize: false, backing: false, lazyRefcounts: false },
  open: openBundle,
  attach: (file: HostFile, shared: SharedImage, { extents }: AttachOptions) =>
    new BundleImage(file, extents, shared.state as ImageDetails),
  inspect: (file: HostFile, _log, openExtent) => inspectBundle(file, openExtent).details,
};

/** @throws ImgfuseError corrupt, unsupported; what openExtent() throws */
function openBundle(file: HostFile, { openExtent }: OpenOptions): BundleImage {
  assert(openExtent !== undefined, 'a sparsebundle is opened with an opener for its bands');
  const { details, extents } = inspectBundle(file, openExtent);
  return new BundleImage(file, extents, details);
}

function inspectBundle(
  file: HostFile,
  openExtent: OpenOptions['openExtent'],
): { readonly details: ImageDetails; readonly extents: readonly HostFile[] } {
  const bundle = readBundle(file);
  const details = describeBundle(bundle);
  if (openExtent === undefined) return { details, extents: [] };
  const token = openToken(file, openExtent);
  const bands = openExtent(BANDS, 'extent', 'read', { pieceBytes: bundle.bandBytes, length: bundle.diskBytes });
  return { details, extents: token === null ? [bands] : [bands, token] };
}
