// Counts of clusters that many entries refer to. They live in pages, and a page exists only if one of its clusters has such a
// count. A page is small, because a hostile image can make each of its 8-byte entries touch a new page. A count that does not
// fit into 16 bits lives in a map.

import { NumberIndex } from '../../../bytes/number-index.ts';

/** clusters of one page */
const PAGE = 16;
/** pages in one allocation */
const CHUNK = 256;
/** This value in a page means that `huge` has the count. */
const HUGE = 65535;

export class LargeCounts {
  /** page number -> place: the order in which the pages were made */
  private readonly index = new NumberIndex();
  private readonly chunks: Uint16Array[] = [];
  private readonly huge = new Map<number, number>();
  private lastNumber = -1;
  private lastChunk: Uint16Array | undefined;
  /** index of the page's first count in its chunk */
  private lastStart = 0;

  get(cluster: number): number {
    const number = Math.floor(cluster / PAGE);
    if (number !== this.lastNumber) this.select(number, this.index.find(number));
    if (this.lastChunk === undefined) return 0;
    const count = this.lastChunk[this.lastStart + cluster - number * PAGE]!;
    return count === HUGE ? this.huge.get(cluster)! : count;
  }

  set(cluster: number, count: number): void {
    const number = Math.floor(cluster / PAGE);
    if (number !== this.lastNumber || this.lastChunk === undefined) this.select(number, this.make(number));
    const chunk = this.lastChunk!;
    const at = this.lastStart + cluster - number * PAGE;
    if (count >= HUGE) this.huge.set(cluster, count);
    else if (chunk[at] === HUGE) this.huge.delete(cluster);
    chunk[at] = Math.min(count, HUGE);
  }

  /** @returns the place of the page */
  private make(number: number): number {
    const { size } = this.index;
    const place = this.index.add(number);
    if (place === size && place % CHUNK === 0) this.chunks.push(new Uint16Array(CHUNK * PAGE));
    return place;
  }

  private select(number: number, place: number): void {
    this.lastNumber = number;
    this.lastChunk = place < 0 ? undefined : this.chunks[Math.floor(place / CHUNK)];
    this.lastStart = (place % CHUNK) * PAGE;
  }
}
