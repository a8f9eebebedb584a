// A small image of each format that is only read, and what its disk reads as. A new one adds its row.

import { bochsImage, MIXED_SECTORS } from './bochs-bytes.ts';
import { cloopImage } from './cloop-bytes.ts';
import { dmgImage } from './dmg-bytes.ts';
import { asifImage, parallelsImage, sparseImage } from './piece-bytes.ts';
import { mixedVhdx } from './vhdx-bytes.ts';
import { vhdxContent } from './vhdx-judge.ts';

export const READ_ONLY_IMAGES: Readonly<
  Record<string, () => { readonly image: Uint8Array; readonly content: Buffer }>
> = {
  bochs: () => bochsImage({ sectors: MIXED_SECTORS }),
  cloop: () => cloopImage(),
  dmg: () => dmgImage(),
  parallels: () => parallelsImage(),
  sparseimage: () => sparseImage(),
  asif: () => asifImage(),
  vhdx: () => {
    const { image } = mixedVhdx();
    return { image, content: vhdxContent(image) };
  },
};
