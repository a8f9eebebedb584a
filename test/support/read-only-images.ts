// A small image of each format that is only read, and what its disk reads as. A new one adds its row.

import { writeFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { bochsImage, MIXED_SECTORS } from './bochs-bytes.ts';
import { type BundleBytes, bundleImage, writeBundle } from './bundle-bytes.ts';
import { cloopImage } from './cloop-bytes.ts';
import { dmgImage } from './dmg-bytes.ts';
import { asifImage, sparseImage } from './piece-bytes.ts';

export interface ReadOnlyImage {
  readonly image: Uint8Array;
  readonly content: Buffer;
}

export const READ_ONLY_IMAGES: Readonly<Record<string, () => ReadOnlyImage>> = {
  bochs: () => bochsImage({ sectors: MIXED_SECTORS }),
  cloop: () => cloopImage(),
  dmg: () => dmgImage(),
  sparseimage: () => sparseImage(),
  sparsebundle: () => bundleImage(),
  asif: () => asifImage(),
};

/** Writes the image to a file, and its other files beside it. */
export function writeReadOnlyImage(path: string, made: ReadOnlyImage): void {
  if ('bands' in made) writeBundle(dirname(path), made as BundleBytes, basename(path));
  else writeFileSync(path, made.image);
}
