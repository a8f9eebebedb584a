// The image formats that imgfuse recognizes and does not open. Such a file must not be shown as a raw disk: a partition table
// written to it would destroy the image. A new engine moves the magics of its row into its plug and deletes the row.

import type { Signature } from './file-ends.ts';

export interface ForeignFormat extends Signature {
  /** name with an article, for the middle of a sentence */
  readonly title: string;
  /** how to get at the disk inside, as an imperative */
  readonly cure: string;
  /** the disk of a guest may begin so, and no program makes an image of it that ends like another format */
  readonly isGuests?: true;
}

export const FOREIGN_FORMATS: readonly ForeignFormat[] = [
  {
    title: 'an encrypted dmg image (macOS)',
    magics: [
      { at: 0, text: 'encrcdsa' },
      { at: -8, text: 'cdsaencr' },
    ],
    cure: 'convert it to a raw image on a Mac',
  },
  {
    title: 'an EWF image (EnCase, .E01)',
    magics: [
      { at: 0, text: 'EVF\x09\x0d\x0a\xff\0' },
      { at: 0, text: 'EVF2\x0d\x0a\x81\0' },
    ],
    cure: 'convert it to a raw image with ewfexport, or mount it with ewfmount',
  },
  {
    title: 'an AFF image',
    magics: [{ at: 0, text: 'AFF10\r\n\0' }],
    cure: 'convert it to a raw image with affconvert -r',
  },
  {
    title: 'an Android sparse image',
    magics: [{ at: 0, text: '\x3a\xff\x26\xed' }],
    cure: 'convert it to a raw image with simg2img',
  },
  {
    title: 'a WIM archive (Windows)',
    magics: [{ at: 0, text: 'MSWIM\0\0\0' }],
    cure: 'convert it to files with wimapply',
  },
  {
    title: 'a partclone image',
    magics: [{ at: 0, text: 'partclone-image\0' }],
    cure: 'convert it to a raw image with partclone.restore',
  },
  {
    title: 'a LUKS container',
    magics: [{ at: 0, text: 'LUKS\xba\xbe' }],
    cure: 'unlock it with cryptsetup open',
    isGuests: true,
  },
];
