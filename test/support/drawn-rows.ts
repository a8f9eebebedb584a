// Which rows of a table of formats a slow test takes. A mount does the same for every format, so CI takes a few rows that are drawn
// anew each time, and a long run takes all. A test names its row, and SLICE_DRAWN=99 has every one of them.

import { seededRandom } from './random.ts';
import { sliceOf } from './slices.ts';

const random = seededRandom(Number(process.env['SEED'] ?? Date.now() % 1_000_000));

/** @param isKept rows that are always taken, beside those that are drawn @returns them in the order of the table */
export function drawnRows<T>(rows: readonly T[], isKept: (row: T) => boolean = () => false): T[] {
  const others = rows.filter((row) => !isKept(row));
  while (others.length > sliceOf('drawn')) others.splice(Math.floor(random() * others.length), 1);
  return rows.filter((row) => isKept(row) || others.includes(row));
}

/** qcow2, which does most while it writes, and others in turn. */
export function drawnFormats<T extends string>(formats: readonly T[]): T[] {
  return drawnRows(formats, (format) => format === 'qcow2');
}
