// The formats, in the order in which they are probed. Raw is last, because every file is a raw image.

import { didYouMean, ImgfuseError } from '../errors/index.ts';
import type { ImageFormat } from '../format/image-format.ts';
import { qcow2 } from '../format/qcow2/index.ts';
import { qed } from '../format/qed/index.ts';
import { raw } from '../format/raw/index.ts';

export const formats: readonly ImageFormat[] = [qed, qcow2, raw];

/** Throws usage with the list of names. */
export function formatByName(name: string): ImageFormat {
  const format = formats.find((candidate) => candidate.name === name);
  if (format !== undefined) return format;
  const names = formats.map((known) => known.name);
  throw new ImgfuseError('usage', `unknown format '${name}'; known are ${names.join(', ')}${didYouMean(name, names)}`);
}
