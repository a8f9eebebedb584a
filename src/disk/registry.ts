// The formats, in the order in which they are probed. Outside the folders of the formats, this file alone knows them by name:
// what others need to know of a format, its plug says.

import { didYouMean, ImgfuseError } from '../errors/index.ts';
import { asif } from '../format/asif/index.ts';
import { bochs } from '../format/bochs/index.ts';
import { cloop } from '../format/cloop/index.ts';
import { dmg } from '../format/dmg/index.ts';
import type { ImageFormat } from '../format/image-format.ts';
import { parallels } from '../format/parallels/index.ts';
import { qcow } from '../format/qcow/index.ts';
import { qcow2 } from '../format/qcow2/index.ts';
import { qed } from '../format/qed/index.ts';
import { raw } from '../format/raw/index.ts';
import { sparsebundle } from '../format/sparsebundle/index.ts';
import { sparseimage } from '../format/sparseimage/index.ts';
import { vdi } from '../format/vdi/index.ts';
import { vhdx } from '../format/vhdx/index.ts';
import { vmdk } from '../format/vmdk/index.ts';
import { vpc } from '../format/vpc/index.ts';

export const formats: readonly ImageFormat[] = [
  qed,
  qcow2,
  qcow,
  vdi,
  vmdk,
  bochs,
  cloop,
  dmg,
  parallels,
  sparseimage,
  sparsebundle,
  asif,
  vpc,
  vhdx,
  raw,
];

/** The format of a file that no other format recognizes: its own bytes are the disk. */
export const rawFormat: ImageFormat = raw;

/** The format of an overlay in advice to the user. */
export const overlayFormat: ImageFormat = qcow2;

/** By its name or one of its aliases. Throws usage with the list of names. */
export function formatByName(name: string): ImageFormat {
  const format = formats.find((each) => each.name === name || each.aliases?.includes(name) === true);
  if (format !== undefined) return format;
  const names = formats.map((known) => known.name);
  throw new ImgfuseError('usage', `unknown format '${name}'; known are ${names.join(', ')}${didYouMean(name, names)}`);
}

/** Names of the formats with a property, as a sentence lists them. */
export function formatNames(has: (format: ImageFormat) => boolean): string {
  return formats
    .filter(has)
    .map(({ name }) => name)
    .join(', ');
}
