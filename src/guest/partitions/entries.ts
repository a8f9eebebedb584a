// Entries of a table on their way to partitions: what lies outside the disk is dropped or cut, as the kernel does it, and said.
// Invariant: every partition lies inside the disk, numbers are unique and at most MAX_PARTITION_NUMBER.

import { hex } from '../../bytes/offsets.ts';

/** The kernel has room for 256 numbers, and 0 is the disk itself. */
export const MAX_PARTITION_NUMBER = 255;
/** Sentences of one table; a hostile one could give thousands. */
const MAX_WARNINGS = 32;
/** The kernel counts the length of a disk in these, whatever its sectors are; a rest is not part of any partition. */
const KERNEL_SECTOR_BYTES = 512;

export interface Partition {
  /** the kernel's: primary ones 1 to 4, logical ones from 5, of a GPT the place in its array */
  readonly number: number;
  /** in bytes from the start of the disk */
  readonly start: number;
  /** in bytes, at least 1 */
  readonly size: number;
  /** MBR: "0x83"; GPT: the GUID in lower case */
  readonly type: string;
  /** "Linux filesystem", as fdisk calls the type; null if it is not one of the well-known ones */
  readonly typeName: string | null;
  /** the name that a GPT gives it; hostile text, never a path */
  readonly name: string | null;
  /** PARTUUID, as blkid prints it; null if the MBR has no disk identifier */
  readonly uuid: string | null;
  /** the active flag of an MBR, the legacy BIOS flag of a GPT */
  readonly bootable: boolean;
}

export class PartitionList {
  readonly partitions: Partition[] = [];
  private readonly diskEnd: number;
  private readonly sentences: string[] = [];
  private dropped = 0;

  /** @param size of the disk, in bytes */
  constructor(size: number) {
    this.diskEnd = Math.floor(size / KERNEL_SECTOR_BYTES) * KERNEL_SECTOR_BYTES;
  }

  /** Takes a partition as the table describes it. */
  add(partition: Partition): void {
    const { number, start, size } = partition;
    if (start >= this.diskEnd) {
      this.warn(
        `partition ${number} begins at ${hex(start)}, behind the end of the disk (${hex(this.diskEnd)}); it is not shown`,
      );
      return;
    }
    const cut = this.diskEnd - start;
    if (size > cut)
      this.warn(`partition ${number} goes beyond the end of the disk by ${size - cut} bytes; it is cut there`);
    this.partitions.push({ ...partition, size: Math.min(size, cut) });
  }

  startsAt(start: number): boolean {
    return this.partitions.some((partition) => partition.start === start);
  }

  warn(sentence: string): void {
    if (this.sentences.length < MAX_WARNINGS) this.sentences.push(sentence);
    else this.dropped++;
  }

  warnings(): string[] {
    return this.dropped === 0
      ? this.sentences
      : [...this.sentences, `and so on: warnings that are left out: ${this.dropped}`];
  }
}
