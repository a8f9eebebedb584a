// Where blocks can lie in an image file: behind the first MiB, before the end of the file, and neither in a region nor in the log.

import { MIB } from './header/fields.ts';
import type { Layout } from './header/layout.ts';

/** Bytes [start, end) of the file. */
export interface Stretch {
  readonly start: number;
  readonly end: number;
}

export class Places {
  private readonly fileEnd: () => number;
  private readonly taken: readonly Stretch[];
  private readonly bat: () => Stretch;

  /** @param fileEnd where the file ends, or what is in use of it @param taken by all but the BAT @param bat which may move */
  constructor(fileEnd: () => number, taken: readonly Stretch[], bat: () => Stretch) {
    this.fileEnd = fileEnd;
    this.taken = taken;
    this.bat = bat;
  }

  /** A copy that was cut is read as far as it goes, and the last block of a disk may end with the disk. */
  hasRoomAt(start: number, bytes: number): boolean {
    const end = start + bytes;
    const isInside = start >= MIB && start < this.fileEnd();
    return isInside && !meets(this.bat(), start, end) && !this.taken.some((stretch) => meets(stretch, start, end));
  }
}

function meets(stretch: Stretch, start: number, end: number): boolean {
  return start < stretch.end && end > stretch.start;
}

/** What is no place for a block, the BAT aside. */
export function takenIn({ headers, regions }: Pick<Layout, 'headers' | 'regions'>): Stretch[] {
  const { logLength, logOffset } = headers.current;
  const log = { start: logOffset, end: logOffset + logLength };
  return [log, ...regions.all.filter((region) => region !== regions.bat)].map(({ end, start }) => ({ start, end }));
}
