// Files in formats that are not opened here, as small as their magic allows, each a whole number of sectors so that nothing
// but the magic speaks against a raw disk.

const SECTOR = 512;

export interface ForeignFile {
  /** of the row of the table that must recognize it */
  readonly name: string;
  readonly what: string;
  readonly content: Buffer;
}

/** A disk of `sectors` with bytes at one place; a negative offset counts from the end. */
export function withBytes(at: number, bytes: string, sectors = 16): Buffer {
  const content = Buffer.alloc(sectors * SECTOR);
  content.write(bytes, at < 0 ? content.length + at : at, 'latin1');
  return content;
}

/** A fixed VHD: a disk and its footer, whose checksum is right. */
export function fixedVhd(disk: Buffer, footerBytes = SECTOR): Buffer {
  const footer = Buffer.alloc(footerBytes);
  footer.write('conectix', 0, 'latin1');
  footer.writeUInt32BE(2, 8);
  footer.writeUInt32BE(0x00010000, 12);
  footer.fill(0xff, 16, 24);
  footer.writeBigUInt64BE(BigInt(disk.length), 40);
  footer.writeBigUInt64BE(BigInt(disk.length), 48);
  footer.writeUInt32BE(2, 60);
  const sum = footer.reduce((total, byte) => total + byte, 0);
  footer.writeUInt32BE(~sum >>> 0, 64);
  return Buffer.concat([disk, footer]);
}

/** The bytes that a format is known by, and where they stand: one entry for each place and spelling. */
export const FOREIGN_MAGICS: readonly (readonly [name: string, what: string, at: number, bytes: string])[] = [
  ['encrypted dmg', 'a header', 0, 'encrcdsa'],
  ['encrypted dmg', 'a trailer', -8, 'cdsaencr'],
  ['EWF', 'a header', 0, 'EVF\x09\x0d\x0a\xff\0'],
  ['EWF', 'a header of version 2', 0, 'EVF2\x0d\x0a\x81\0'],
  ['AFF', 'a header', 0, 'AFF10\r\n\0'],
  ['Android sparse', 'a header', 0, '\x3a\xff\x26\xed'],
  ['WIM', 'a header', 0, 'MSWIM\0\0\0'],
  ['partclone', 'a header', 0, 'partclone-image\0'],
  ['LUKS', 'a header', 0, 'LUKS\xba\xbe\0\x02'],
];

export const FOREIGN_FILES: readonly ForeignFile[] = FOREIGN_MAGICS.map(([name, what, at, bytes]) => ({
  name,
  what,
  content: withBytes(at, bytes),
}));
