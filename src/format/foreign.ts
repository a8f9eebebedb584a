// The image formats that imgfuse recognizes and does not open. Such a file must not be shown as a raw disk: a partition table
// written to it would destroy the image. A new engine moves the magics of its row into its plug and deletes the row.

import type { FileEnds, Signature } from './file-ends.ts';

export interface ForeignFormat extends Signature {
  /** name with an article, for the middle of a sentence */
  readonly title: string;
  /** how to get at the disk inside, as an imperative */
  readonly cure: string;
}

const SESPARSE_START = '\xbe\xba\xfe\xca\0\0\0\0\x01\0\0\0\x02\0\0\0';
/** Starts the footer of a fixed VHD, which is the disk followed by a footer. The footer of old programs is one byte shorter. */
const VHD_COOKIE = 'conectix';
const VHD_FOOTER_BYTES = [512, 511] as const;

export const FOREIGN_FORMATS: readonly ForeignFormat[] = [
  {
    title: 'a VMDK image (VMware)',
    magics: [
      { at: 0, text: 'KDMV' },
      { at: 0, text: 'COWD' },
      { at: 0, text: SESPARSE_START },
      { at: 0, text: '# Disk DescriptorFile', ignoreCase: true },
    ],
    cure: convertFrom('vmdk'),
  },
  {
    title: 'a VHD image (Virtual PC, Azure)',
    magics: [{ at: 0, text: VHD_COOKIE }, ...VHD_FOOTER_BYTES.map((length) => ({ at: -length, text: VHD_COOKIE }))],
    cure: convertFrom('vpc'),
    ownsHead: endsLikeFixedVhd,
  },
  { title: 'a VHDX image (Hyper-V)', magics: [{ at: 0, text: 'vhdxfile' }], cure: convertFrom('vhdx') },
  {
    title: 'a Parallels image',
    magics: [
      { at: 0, text: 'WithoutFreeSpace' },
      { at: 0, text: 'WithouFreSpacExt' },
    ],
    cure: convertFrom('parallels'),
  },
  { title: 'a qcow image of version 1', magics: [{ at: 0, text: 'QFI\xfb\0\0\0\x01' }], cure: convertFrom('qcow') },
  { title: 'a dmg image (macOS)', magics: [{ at: -512, text: 'koly' }], cure: convertFrom('dmg') },
  {
    title: 'an encrypted dmg image (macOS)',
    magics: [
      { at: 0, text: 'encrcdsa' },
      { at: -8, text: 'cdsaencr' },
    ],
    cure: 'convert it to a raw image on a Mac',
  },
  { title: 'a sparseimage (macOS)', magics: [{ at: 0, text: 'sprs' }], cure: 'convert it to a raw image on a Mac' },
  { title: 'an ASIF image (macOS)', magics: [{ at: 0, text: 'shdw' }], cure: 'convert it to a raw image on a Mac' },
  { title: 'a cloop image', magics: [{ at: 0, text: '#!/bin/sh\n#V2.0 Format' }], cure: convertFrom('cloop') },
  { title: 'a LUKS container', magics: [{ at: 0, text: 'LUKS\xba\xbe' }], cure: 'unlock it with cryptsetup open' },
];

function convertFrom(driver: string): string {
  return `convert it with qemu-img convert -f ${driver} -O qcow2`;
}

/**
 * Whether the file ends with a valid footer of a fixed VHD: the type, the checksum, and a size that is the rest of the file.
 * Then the file is a VHD even if its first sector, which the guest can write, has the magic of another format.
 */
function endsLikeFixedVhd(ends: FileEnds): boolean {
  const length = VHD_FOOTER_BYTES.find((bytes) => ends.has({ at: -bytes, text: VHD_COOKIE }));
  if (length === undefined) return false;
  const footer = ends.tail.subarray(ends.tail.length - length);
  const view = new DataView(footer.buffer, footer.byteOffset, footer.length);
  const [currentSize, type, checksum] = [48, 60, 64];
  let sum = 0;
  footer.forEach((byte, at) => {
    if (at < checksum || at >= checksum + 4) sum += byte;
  });
  return (
    view.getUint32(type, false) === 2 &&
    view.getUint32(checksum, false) === ~sum >>> 0 &&
    view.getUint32(currentSize, false) * 2 ** 32 + view.getUint32(currentSize + 4, false) === ends.size - length
  );
}
