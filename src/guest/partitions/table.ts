// Which table a disk has: GPT, MBR or none. Any slot of type EE in the MBR makes it GPT or nothing, so the slots of a hybrid table are
// not shown twice; the boot sector of a FAT or NTFS file system ends in 55 AA as well and is none. Invariant: the answer
// depends on the ranges in `looked` and on the size of the disk, on nothing else.

import { hex } from '../../bytes/offsets.ts';
import { isBootSectorOfFileSystem, isLvmPhysicalVolume } from './boot-sectors.ts';
import { type Partition, PartitionList } from './entries.ts';
import {
  addGptPartitions,
  type Damage,
  type GptHeader,
  lastLba,
  NO_HEADER,
  readGptArray,
  readGptHeader,
} from './gpt.ts';
import { MbrPartitions } from './mbr.ts';
import { diskIdentifier, hasBootSignature, isValidBootFlag, MBR_BYTES, MBR_TYPE_GPT, mbrSlots } from './mbr-slots.ts';
import { type ByteRange, type PartitionSource, RecordedSource } from './source.ts';

export interface PartitionTable {
  /** null: the disk has no partition table, or none that can be read (then `warnings` say why) */
  readonly scheme: 'gpt' | 'dos' | null;
  /** bytes of a logical sector; of an MBR always 512, because nothing in it says otherwise */
  readonly sectorSize: number;
  /** PTUUID as blkid prints it: the disk GUID, or the eight digits of the MBR's disk identifier; null if there is none */
  readonly id: string | null;
  /** in the order of the table */
  readonly partitions: readonly Partition[];
  /** sentences about what is damaged, cut or not shown; with text from the disk in them only as numbers */
  readonly warnings: readonly string[];
  /** what was read, sorted and disjoint: a write into one of them makes the answer stale, and so does a new size of the disk */
  readonly looked: readonly ByteRange[];
}

/** Logical sectors of the kernel; every partition program writes its GPT at one of them. */
const SECTOR_SIZES: readonly number[] = [512, 1024, 2048, 4096];
const MBR_SECTOR_BYTES = 512;
const AIX_MAGIC: readonly number[] = [0xc9, 0xc2, 0xd4, 0xc1];

/**
 * Reads the partition table of a disk in bounded time and memory, whatever is written there.
 * @throws ImgfuseError only if the source does
 */
export function readPartitionTable(disk: PartitionSource): PartitionTable {
  const source = new RecordedSource(disk);
  const list = new PartitionList(disk.size);
  const found = findTable(source, list);
  return { ...found, partitions: list.partitions, warnings: list.warnings(), looked: source.looked() };
}

type Found = Pick<PartitionTable, 'scheme' | 'sectorSize' | 'id'>;

const NO_TABLE: Found = { scheme: null, sectorSize: MBR_SECTOR_BYTES, id: null };

function findTable(source: RecordedSource, list: PartitionList): Found {
  const sector = source.bytes(0, MBR_BYTES);
  if (sector === null || !hasBootSignature(sector)) return NO_TABLE;
  if (AIX_MAGIC.every((byte, index) => sector[index] === byte)) return NO_TABLE;
  const slots = mbrSlots(sector);
  if (slots.some(({ type }) => type === MBR_TYPE_GPT)) return findGpt(source, list);
  if (!slots.every(isValidBootFlag) || isBootSectorOfFileSystem(sector)) return NO_TABLE;
  if (slots.every(({ sizeSectors }) => sizeSectors === 0) && isLvmPhysicalVolume(source)) return NO_TABLE;
  new MbrPartitions(source, MBR_SECTOR_BYTES, list).add(sector);
  return { scheme: 'dos', sectorSize: MBR_SECTOR_BYTES, id: diskIdentifier(sector) };
}

/** A GPT whose header and entries are sound. */
interface Gpt {
  readonly header: GptHeader;
  readonly array: Uint8Array;
  readonly sectorSize: number;
}

function findGpt(source: RecordedSource, list: PartitionList): Found {
  const gpt = chooseGpt(source, list);
  if (gpt === null) return NO_TABLE;
  const { header, array, sectorSize } = gpt;
  addGptPartitions(header, array, sectorSize, list);
  return { scheme: 'gpt', sectorSize, id: header.diskGuid };
}

/** The primary table, or else the backup. Tables for two sector sizes are refused: one of them is a remainder, and nothing says which. */
function chooseGpt(source: RecordedSource, list: PartitionList): Gpt | null {
  const primary = readGpt(source, () => 1);
  if ('header' in primary) return primary;
  if (primary.isAmbiguous) {
    list.warn(`the partition table cannot be read, because ${primary.damage}`);
    return null;
  }
  const backup = readGpt(source, (sectorSize) => lastLba(source.size, sectorSize));
  if ('header' in backup) {
    const place = hex(backup.header.lba * backup.sectorSize);
    list.warn(`the primary GPT is damaged (${primary.damage}); its backup at ${place} is used`);
    return backup;
  }
  list.warn(
    `the GPT that the MBR announces cannot be read (${primary.damage}), and neither can its backup (${backup.damage})`,
  );
  return null;
}

/** The table whose header is at an LBA, for the one sector size at which there is a sound header. */
function readGpt(
  source: RecordedSource,
  lbaOf: (sectorSize: number) => number,
): Gpt | (Damage & { isAmbiguous: boolean }) {
  const readings = SECTOR_SIZES.map((sectorSize) => ({
    sectorSize,
    header: readGptHeader(source, lbaOf(sectorSize), sectorSize),
  }));
  const sound = readings.flatMap(({ sectorSize, header }) => ('damage' in header ? [] : [{ sectorSize, header }]));
  if (sound.length > 1) {
    const sizes = sound.map(({ sectorSize }) => sectorSize).join(' and ');
    return { damage: `there is a GPT for sectors of ${sizes} bytes each`, isAmbiguous: true };
  }
  const [one] = sound;
  if (one === undefined) return { damage: worstDamage(readings.map(({ header }) => header)), isAmbiguous: false };
  const array = readGptArray(source, one.header, one.sectorSize);
  return 'damage' in array ? { ...array, isAmbiguous: false } : { ...one, array };
}

/** What is wrong with a header that is there says more than that none is at the other places. */
function worstDamage(headers: readonly (GptHeader | Damage)[]): string {
  const damages = headers.filter((header) => 'damage' in header);
  return (damages.find(({ damage }) => damage !== NO_HEADER) ?? damages[0]!).damage;
}
