// Some programs refuse an image whose disk is not as long as that of its parent. Here such a pair is read and written, and what lies
// behind the end of a shorter parent reads as zeros, so this is only said. A parent that is not opened for that anyway has its header
// read, under the policy for backing files; what stands in the way of that is no error here.

import { closingAfter } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import { isMeant } from '../format/backing-reference.ts';
import { endsOf } from '../format/file-ends.ts';
import {
  type BackingReference,
  type ImageDetails,
  type ImageFormat,
  imageChain,
  type ReadableImage,
} from '../format/image-format.ts';
import { type BackingPolicy, type NamingImage, resolveBacking } from './backing-policy.ts';
import { openImageFile } from './image-file.ts';
import { searchParent } from './parent-search.ts';
import { recognizedName } from './probe.ts';
import { formatByName } from './registry.ts';

type Log = (sentence: string) => void;

interface Sized {
  readonly path: string;
  readonly virtualSize: number;
}

/** Of the images of a chain that is open. */
export function sayUnequalSizes(top: ReadableImage, log: Log): void {
  for (const image of imageChain(top)) {
    const { backing, format } = image;
    if (backing?.format === format) compare(formatByName(format), sizeOf(image), sizeOf(backing), log);
  }
}

function sizeOf(image: ReadableImage): Sized {
  return { path: image.file.path, virtualSize: image.virtualSize() };
}

/** Of an image whose header was read. */
export function sayUnequalParent(
  format: ImageFormat,
  image: NamingImage,
  { backing, virtualSize }: ImageDetails,
  policy: BackingPolicy,
  log: Log,
): void {
  if (backing === undefined || format.refusesOtherSize === undefined) return;
  const parent = findParent(format, image, backing, policy);
  if (parent !== null) compare(format, { path: image.path, virtualSize }, parent, log);
}

function findParent(
  format: ImageFormat,
  image: NamingImage,
  reference: BackingReference,
  policy: BackingPolicy,
): Sized | null {
  for (const name of [reference.name, ...(reference.otherNames ?? [])]) {
    try {
      const { device, path } = searchParent(image, reference, policy) ?? resolveBacking(image, name, policy);
      const found = device === undefined ? headerOf(format, path, reference) : null;
      if (found !== null) return found;
    } catch (error) {
      if (!(error instanceof ImgfuseError)) throw error;
    }
  }
  return null;
}

/** null: it is of another format, or another image than the one that is meant. */
function headerOf(format: ImageFormat, path: string, { identity: meant }: BackingReference): Sized | null {
  const file = openImageFile(path, true, 'image');
  return closingAfter(
    () => [file],
    () => {
      if (recognizedName(endsOf(file)) !== format.title) return null;
      const { identity, virtualSize } = format.inspect(file);
      const isIt = meant === undefined || (identity !== undefined && isMeant(meant, identity));
      return isIt ? { path, virtualSize } : null;
    },
  );
}

function compare({ refusesOtherSize: program }: ImageFormat, child: Sized, parent: Sized, log: Log): void {
  const [own, other] = [child.virtualSize, parent.virtualSize];
  if (program === undefined || own === other) return;
  const cure =
    own < other
      ? `imgfuse resize ${child.path} ${other} makes it as long`
      : `imgfuse commit ${child.path} makes the parent as long`;
  log(
    `the disk of ${child.path} has ${own} bytes and that of its parent ${parent.path} ${other}, and ${program} refuses a child of ` +
      `another size; ${cure}`,
  );
}
