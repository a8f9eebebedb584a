// Partitions of a master boot record: the primary ones, and the logical ones in a chain of extended boot records. Each record has
// data slots (relative to the record itself) and a link to the next one (relative to the extended partition). Invariant: no
// record is read twice, so a chain that leads back ends. It may go backwards: sfdisk makes such chains when logical partitions
// are not in the order of the disk.

import { hex } from '../../bytes/offsets.ts';
import { MAX_PARTITION_NUMBER, type PartitionList } from './entries.ts';
import {
  describeSlot,
  diskIdentifier,
  hasBootSignature,
  isExtended,
  MBR_BYTES,
  MBR_SLOTS,
  type MbrSlot,
  mbrSlots,
} from './mbr-slots.ts';
import type { RecordedSource } from './source.ts';

/** Records without a partition in one chain; the kernel takes as many in a row. */
const MAX_EMPTY_RECORDS = 100;
/** Slots of an extended boot record from here on may hold remains of other uses of the sector, so they must fit. */
const FIRST_DOUBTFUL_SLOT = 2;

/** Logical sectors of the disk; `end` is exclusive. */
interface SectorRange {
  readonly start: number;
  readonly end: number;
}

export class MbrPartitions {
  private readonly source: RecordedSource;
  private readonly sectorSize: number;
  private readonly list: PartitionList;
  private diskId: string | null = null;
  /** of the next logical partition; as in the kernel, several extended partitions share one count */
  private nextNumber = MBR_SLOTS + 1;

  constructor(source: RecordedSource, sectorSize: number, list: PartitionList) {
    this.source = source;
    this.sectorSize = sectorSize;
    this.list = list;
  }

  /** Adds every partition of the table to the list; an extended partition is none. @param sector the MBR */
  add(sector: Uint8Array): void {
    this.diskId = diskIdentifier(sector);
    for (const slot of mbrSlots(sector)) {
      if (slot.sizeSectors === 0) continue;
      if (isExtended(slot)) this.followChain(slot);
      else this.addPartition(slot, slot.startSectors, slot.index + 1);
    }
  }

  /** @param startSectors from the start of the disk */
  private addPartition(slot: MbrSlot, startSectors: number, number: number): void {
    const { sectorSize } = this;
    const place = { number, start: startSectors * sectorSize, size: slot.sizeSectors * sectorSize };
    this.list.add({ ...place, ...describeSlot(slot, this.diskId, number) });
  }

  private followChain(extended: MbrSlot): void {
    const area = { start: extended.startSectors, end: extended.startSectors + extended.sizeSectors };
    if (area.start === 0) {
      this.list.warn(
        'an extended partition begins at sector 0, on the table itself; its logical partitions are not shown',
      );
      return;
    }
    const seen = new Set<number>();
    let emptyRecords = 0;
    let record: SectorRange | null = area;
    while (record !== null) {
      seen.add(record.start);
      const slots = this.readRecord(record.start);
      if (slots === null) return;
      const number = this.nextNumber;
      this.addLogical(slots, record, area);
      if (this.nextNumber === number && ++emptyRecords > MAX_EMPTY_RECORDS) {
        this.list.warn(
          `more than ${MAX_EMPTY_RECORDS} extended boot records have no partition; the others are not read`,
        );
        return;
      }
      record = this.nextRecord(slots, area, seen);
    }
  }

  /** The slots of an extended boot record; null if there is none. */
  private readRecord(sector: number): MbrSlot[] | null {
    const offset = sector * this.sectorSize;
    const bytes = this.source.bytes(offset, MBR_BYTES);
    if (bytes === null)
      this.list.warn(`an extended boot record at ${hex(offset)} would lie behind the end of the disk`);
    return bytes === null || !hasBootSignature(bytes) ? null : mbrSlots(bytes);
  }

  /** Every slot that the kernel counts takes a number, so that those behind a senseless one keep theirs. */
  private addLogical(slots: readonly MbrSlot[], record: SectorRange, area: SectorRange): void {
    for (const slot of slots) {
      if (slot.sizeSectors === 0 || isExtended(slot)) continue;
      const start = record.start + slot.startSectors;
      const isInside = start + slot.sizeSectors <= area.end;
      if (slot.index >= FIRST_DOUBTFUL_SLOT) {
        const recordSize = record.end - record.start;
        if (!isInside || slot.startSectors + slot.sizeSectors > recordSize) continue;
      }
      const number = this.nextNumber;
      if (number > MAX_PARTITION_NUMBER) return;
      this.nextNumber++;
      const offset = start * this.sectorSize;
      if (!isInside) this.list.warn(`partition ${number} is not inside its extended partition; it is not shown`);
      else if (this.list.startsAt(offset))
        this.list.warn(`partition ${number} begins where another one does; it is not shown`);
      else this.addPartition(slot, start, number);
    }
  }

  /** Where the first link leads to; null if the chain ends here. */
  private nextRecord(slots: readonly MbrSlot[], area: SectorRange, seen: ReadonlySet<number>): SectorRange | null {
    const link = slots.find((slot) => slot.sizeSectors > 0 && isExtended(slot) && slot.startSectors > 0);
    if (link === undefined) return null;
    const start = area.start + link.startSectors;
    if (this.nextNumber > MAX_PARTITION_NUMBER) {
      this.list.warn(`partitions above number ${MAX_PARTITION_NUMBER} are not shown, as in the kernel`);
      return null;
    }
    if (seen.has(start)) {
      this.list.warn(`the chain of extended boot records leads back to sector ${start}; it ends there`);
      return null;
    }
    if (start >= area.end) {
      this.list.warn(`a link leads to sector ${start}, outside the extended partition; the chain ends there`);
      return null;
    }
    return { start, end: start + link.sizeSectors };
  }
}
