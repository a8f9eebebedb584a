// The first bytes of file systems and containers, just enough to be recognized, written from their specifications.

import { BufferDisk } from './buffer-disk.ts';
import { MIB } from './partition-bytes.ts';

/** Bytes 01 02 ... 10. */
export const UUID_BYTES = Uint8Array.from({ length: 16 }, (_, index) => index + 1);
export const UUID_TEXT = '01020304-0506-0708-090a-0b0c0d0e0f10';
const LABEL = 'my label';

/** Bytes, or a number with its width in bits and its order. */
type Field =
  | string
  | Uint8Array
  | { u8: number }
  | { u16le: number }
  | { u16be: number }
  | { u32le: number }
  | { u32be: number }
  | { u64le: bigint }
  | { u64be: bigint };

function bytesOf(field: Field): Uint8Array {
  if (typeof field === 'string') return Buffer.from(field, 'latin1');
  if (field instanceof Uint8Array) return field;
  const view = new DataView(new ArrayBuffer(8));
  const cut = (length: number) => new Uint8Array(view.buffer, 0, length);
  if ('u8' in field) {
    view.setUint8(0, field.u8);
    return cut(1);
  }
  if ('u16le' in field || 'u16be' in field) {
    view.setUint16(0, 'u16le' in field ? field.u16le : field.u16be, 'u16le' in field);
    return cut(2);
  }
  if ('u32le' in field || 'u32be' in field) {
    view.setUint32(0, 'u32le' in field ? field.u32le : field.u32be, 'u32le' in field);
    return cut(4);
  }
  view.setBigUint64(0, 'u64le' in field ? field.u64le : field.u64be, 'u64le' in field);
  return cut(8);
}

export type Fields = Readonly<Record<number, Field>>;

export function volumeOf(size: number, fields: Fields): BufferDisk {
  const disk = new BufferDisk(size);
  for (const [offset, field] of Object.entries(fields)) disk.write(Number(offset), bytesOf(field));
  return disk;
}

export interface Sample {
  readonly type: string;
  readonly use?: string;
  readonly size?: number;
  readonly fields: Fields;
  /** what is read beside type and use */
  readonly details?: { readonly label?: string; readonly uuid?: string; readonly needsRecovery?: boolean };
  /** where a single byte is enough to make it something else, or nothing */
  readonly magicAt: number;
}

/** Jump, bytes per sector, sectors per cluster, reserved, FATs, root entries, media, FAT length. */
const FAT16_FIELDS: Fields = {
  0: '\xeb\x3c\x90mkfs.fat',
  11: { u16le: 512 },
  13: { u8: 4 },
  14: { u16le: 4 },
  16: { u8: 2 },
  17: { u16le: 512 },
  19: { u16le: 40_000 },
  21: { u8: 0xf8 },
  22: { u16le: 40 },
  38: { u8: 0x29 },
  39: '\x78\x56\x34\x12NO NAME    FAT16   ',
  510: '\x55\xaa',
  // a long name, a deleted entry, then the label
  [(4 + 2 * 40) * 512]: `Aa${'\0'.repeat(9)}\x0f`,
  [(4 + 2 * 40) * 512 + 32]: '\xe5LD        \x08',
  [(4 + 2 * 40) * 512 + 64]: 'MY LABEL   \x08',
};

const FAT32_FIELDS: Fields = {
  0: '\xeb\x58\x90mkfs.fat',
  11: { u16le: 512 },
  13: { u8: 1 },
  14: { u16le: 32 },
  16: { u8: 2 },
  21: { u8: 0xf8 },
  32: { u32le: 100_000 },
  36: { u32le: 800 },
  44: { u32le: 3 },
  66: { u8: 0x29 },
  67: '\xef\xbe\xad\xdeNO NAME    FAT32   ',
  510: '\x55\xaa',
  [(32 + 2 * 800 + 1) * 512]: 'FAT32LABEL \x08',
};

const ntfsAttribute = (type: number, value: Uint8Array): Uint8Array => {
  const bytes = Buffer.alloc(24 + Math.ceil(value.length / 8) * 8);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt32LE(bytes.length, 4);
  bytes.writeUInt32LE(value.length, 16);
  bytes.writeUInt16LE(24, 20);
  bytes.set(value, 24);
  return bytes;
};

const NTFS_VOLUME = 4 * 4096 + 3 * 1024;
const NTFS_FIELDS: Fields = {
  0: '\xeb\x52\x90NTFS    ',
  11: { u16le: 512 },
  13: { u8: 8 },
  21: { u8: 0xf8 },
  40: { u64le: 32_768n },
  48: { u64le: 4n },
  64: { u8: 0xf6 },
  72: { u64le: 0x0123456789abcdefn },
  510: '\x55\xaa',
  [NTFS_VOLUME]: 'FILE',
  [NTFS_VOLUME + 20]: { u16le: 56 },
  [NTFS_VOLUME + 56]: Buffer.concat([
    ntfsAttribute(0x60, Buffer.from(LABEL, 'utf16le')),
    ntfsAttribute(0x70, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 1, 0)),
    Uint8Array.of(0xff, 0xff, 0xff, 0xff),
  ]),
};

/** compat, incompat, ro_compat of ext */
const ext = (compat: number, incompat: number, roCompat: number): Fields => ({
  1048: { u32le: 2 },
  1080: '\x53\xef',
  1116: { u32le: compat },
  1120: { u32le: incompat },
  1124: { u32le: roCompat },
  1128: UUID_BYTES,
  1144: LABEL,
});
const LABELLED = { label: LABEL, uuid: UUID_TEXT };

const md1 = (at: number): Fields => ({
  [at]: { u32le: 0xa92b4efc },
  [at + 4]: { u32le: 1 },
  [at + 16]: UUID_BYTES,
  [at + 32]: LABEL,
  [at + 144]: { u64le: BigInt(at / 512) },
});
const SIZE = 80 * MIB;
const MD0 = SIZE - 64 * 1024;

const zfsList = (at: number): Fields => ({
  [at]: `\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\0\0\x24\0\0\0\x20\0\0\0\x07version`,
});

export const SAMPLES: readonly Sample[] = [
  { type: 'ext2', fields: ext(0, 0x2, 0x3), details: { ...LABELLED, needsRecovery: false }, magicAt: 1080 },
  { type: 'ext3', fields: ext(0x4, 0x2, 0x3), details: { ...LABELLED, needsRecovery: false }, magicAt: 1081 },
  { type: 'ext3', fields: ext(0x4, 0x6, 0x3), details: { ...LABELLED, needsRecovery: true }, magicAt: 1081 },
  { type: 'ext4', fields: ext(0x4, 0x42, 0x3), details: { ...LABELLED, needsRecovery: false }, magicAt: 1080 },
  { type: 'ext4', fields: ext(0x4, 0x46, 0x3), details: { ...LABELLED, needsRecovery: true }, magicAt: 1080 },
  { type: 'ext4', fields: ext(0, 0x2, 0x400), details: { ...LABELLED, needsRecovery: false }, magicAt: 1080 },
  { type: 'jbd', use: 'container', fields: ext(0, 0x8, 0), details: LABELLED, magicAt: 1080 },
  {
    type: 'xfs',
    fields: { 0: 'XFSB', 4: { u32be: 4096 }, 32: UUID_BYTES, 88: { u32be: 4 }, 108: LABEL },
    details: LABELLED,
    magicAt: 3,
  },
  {
    type: 'btrfs',
    fields: { 65568: UUID_BYTES, 65584: { u64le: 65536n }, 65600: '_BHRfS_M', 65835: LABEL },
    details: { ...LABELLED, needsRecovery: false },
    magicAt: 65607,
  },
  {
    type: 'btrfs',
    fields: { 65584: { u64le: 65536n }, 65600: '_BHRfS_M', 65632: { u64le: 2n ** 63n } },
    details: { needsRecovery: true },
    magicAt: 65600,
  },
  {
    type: 'vfat',
    fields: FAT16_FIELDS,
    details: { label: 'MY LABEL', uuid: '1234-5678', needsRecovery: false },
    magicAt: 510,
  },
  {
    type: 'vfat',
    fields: FAT32_FIELDS,
    details: { label: 'FAT32LABEL', uuid: 'DEAD-BEEF', needsRecovery: false },
    magicAt: 511,
  },
  {
    type: 'ntfs',
    fields: NTFS_FIELDS,
    details: { label: LABEL, uuid: '0123456789ABCDEF', needsRecovery: true },
    magicAt: 3,
  },
  {
    type: 'exfat',
    fields: { 3: 'EXFAT   ', 100: { u32le: 0x1234abcd }, 106: { u16le: 2 }, 510: '\x55\xaa' },
    details: { uuid: '1234-ABCD', needsRecovery: true },
    magicAt: 10,
  },
  ...[4096, 8192, 16384, 32768, 65536].map(
    (page): Sample => ({
      type: 'swap',
      use: 'swap',
      fields: { 1024: { u32le: 1 }, 1028: { u32le: 99 }, 1036: UUID_BYTES, 1052: LABEL, [page - 10]: 'SWAPSPACE2' },
      details: LABELLED,
      magicAt: page - 1,
    }),
  ),
  { type: 'swsuspend', use: 'container', fields: { 4086: 'S1SUSPEND' }, magicAt: 4086 },
  {
    type: 'crypto_LUKS',
    use: 'container',
    fields: { 0: 'LUKS\xba\xbe', 6: { u16be: 1 }, 24: 'ignored', 168: UUID_TEXT },
    details: { uuid: UUID_TEXT },
    magicAt: 5,
  },
  {
    type: 'crypto_LUKS',
    use: 'container',
    fields: { 0: 'LUKS\xba\xbe', 6: { u16be: 2 }, 24: LABEL, 168: UUID_TEXT },
    details: LABELLED,
    magicAt: 0,
  },
  ...[0, 512, 1024, 1536].map(
    (at): Sample => ({
      type: 'LVM2_member',
      use: 'container',
      fields: { [at]: 'LABELONE', [at + 24]: 'LVM2 001', [at + 32]: 'abcdefGHIJklmnOPqrstUVwxyz012345' },
      details: { uuid: 'abcdef-GHIJ-klmn-OPqr-stUV-wxyz-012345' },
      magicAt: at + 31,
    }),
  ),
  ...[0, 4096, SIZE - 8192].map(
    (at): Sample => ({
      type: 'linux_raid_member',
      use: 'container',
      size: SIZE,
      fields: md1(at),
      details: LABELLED,
      magicAt: at,
    }),
  ),
  {
    type: 'linux_raid_member',
    use: 'container',
    size: SIZE,
    fields: {
      [MD0]: { u32le: 0xa92b4efc },
      [MD0 + 20]: { u32le: 0x01020304 },
      [MD0 + 32]: { u32le: 1000 },
      [MD0 + 52]: { u32le: 0x05060708 },
      [MD0 + 56]: { u32le: 0x090a0b0c },
      [MD0 + 60]: { u32le: 0x0d0e0f10 },
    },
    details: { uuid: UUID_TEXT },
    magicAt: MD0 + 3,
  },
  {
    type: 'bcache',
    use: 'container',
    fields: { 4120: Buffer.from('c68573f64e1a45ca8265f57f48ba6d81', 'hex') },
    magicAt: 4135,
  },
  { type: 'BitLocker', use: 'container', fields: { 3: '-FVE-FS-' }, magicAt: 3 },
  {
    type: 'BitLocker',
    use: 'container',
    fields: { ...FAT32_FIELDS, 3: 'MSWIN4.1', 440: { u64le: 1_000_000n }, 1000000: '-FVE-FS-' },
    magicAt: 1_000_007,
  },
  ...[0, 256 * 1024, SIZE - 512 * 1024, SIZE - 256 * 1024].map(
    (label): Sample => ({
      type: 'zfs_member',
      use: 'container',
      size: SIZE + 1000,
      fields: zfsList(label + 16 * 1024),
      magicAt: label + 16 * 1024 + 24,
    }),
  ),
  {
    type: 'iso9660',
    fields: { 32769: 'CD001', 32808: `${LABEL}${' '.repeat(24)}` },
    details: { label: LABEL, needsRecovery: false },
    magicAt: 32773,
  },
  { type: 'squashfs', fields: { 0: 'hsqs', 28: { u16le: 4 } }, details: { needsRecovery: false }, magicAt: 3 },
  { type: 'squashfs3', fields: { 0: 'hsqs', 28: { u16le: 3 } }, details: { needsRecovery: false }, magicAt: 3 },
  { type: 'hfsplus', fields: { 1024: 'H+' }, magicAt: 1024 },
  { type: 'hfsplus', fields: { 1024: 'HX' }, magicAt: 1025 },
  { type: 'apfs', fields: { 32: 'NXSB', 72: UUID_BYTES }, details: { uuid: UUID_TEXT }, magicAt: 32 },
  { type: 'jfs', fields: { 32768: 'JFS1', 32904: UUID_BYTES, 32920: LABEL }, details: LABELLED, magicAt: 32768 },
  { type: 'f2fs', fields: { 1024: '\x10\x20\xf5\xf2', 1132: UUID_BYTES }, details: { uuid: UUID_TEXT }, magicAt: 1027 },
  {
    type: 'erofs',
    fields: { 1024: '\xe2\xe1\xf5\xe0', 1072: UUID_BYTES, 1088: LABEL },
    details: LABELLED,
    magicAt: 1024,
  },
  { type: 'ReFS', fields: { 3: 'ReFS\0\0\0\0' }, magicAt: 3 },
];
