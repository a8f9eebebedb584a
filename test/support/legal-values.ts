// Which values the sectors of a disk may have: each sector is full of one value, the one at the last completed flush or one
// that was written since.

import { SECTOR } from './workloads.ts';

/** Sectors that are compared at once. */
const RUN_SECTORS = 16;
/** That many sectors full of each value. */
const UNIFORM = Array.from({ length: 256 }, (_, value) => Buffer.alloc(RUN_SECTORS * SECTOR, value));

/** For each sector the values that may be read: what it had at first, until something is written to it. */
export class LegalValues {
  private readonly content: Uint8Array;
  /** the values of each sector that was written, the last one last */
  private readonly written = new Map<number, number[]>();
  /** sectors that were not written since a process ended that may have held their last value back */
  private readonly unsure = new Set<number>();

  constructor(content: Uint8Array) {
    this.content = content;
  }

  allows(sector: number, value: number): boolean {
    const values = this.written.get(sector);
    return values === undefined ? this.content[sector] === value : values.includes(value);
  }

  of(sector: number): readonly number[] {
    return this.written.get(sector) ?? [this.content[sector]!];
  }

  add(sector: number, value: number): void {
    const values = this.of(sector).filter((known) => known !== value);
    values.push(value);
    this.written.set(sector, values);
    this.unsure.delete(sector);
  }

  /** What was written last stays. */
  flush(): void {
    for (const [sector, values] of this.written) if (!this.unsure.has(sector)) values.splice(0, values.length - 1);
  }

  /** What was not flushed may be lost, or come with a later flush. */
  kill(): void {
    for (const sector of this.written.keys()) this.unsure.add(sector);
  }
}

/** Compares the sectors [first, end) of `disk`; `content` receives their values, and may be the legal ones. @returns what is wrong with one, or null */
export function findIllegal(
  disk: Buffer,
  { first, end }: { readonly first: number; readonly end: number },
  legal: LegalValues,
  content: Uint8Array,
): string | null {
  for (let sector = first; sector < end; ) {
    const start = sector;
    const value = disk[start * SECTOR]!;
    const most = Math.min(end, start + RUN_SECTORS);
    for (; sector < most && disk[sector * SECTOR] === value; sector++) {
      if (!legal.allows(sector, value))
        return `sector ${sector} reads ${value}; legal are ${legal.of(sector).join(', ')}`;
      content[sector] = value;
    }
    if (isUniform(disk, start, sector, value)) continue;
    const torn = Array.from({ length: sector - start }, (_, i) => start + i).filter(
      (one) => !isUniform(disk, one, one + 1, value),
    );
    return `sector ${torn.join(', ')} is torn`;
  }
  return null;
}

/** Sectors [start, end) are full of `value`; at most RUN_SECTORS. */
function isUniform(disk: Buffer, start: number, end: number, value: number): boolean {
  return disk.compare(UNIFORM[value]!, 0, (end - start) * SECTOR, start * SECTOR, end * SECTOR) === 0;
}
