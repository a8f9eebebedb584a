// The number of references to each host cluster. Counts live in pages, and a page exists only if one of its clusters has been
// counted. Pages are small, because a hostile image can make each of its 8-byte entries touch a new page. A count that does
// not fit into 16 bits lives in a map.

import { countBelow, NumberIndex } from '../../../bytes/number-index.ts';

/** clusters of one page */
const PAGE = 16;
/** pages in one allocation */
const CHUNK = 256;
/** This value in a page means that `large` has the count. */
const LARGE = 65535;

export class CountedReferences {
  /** page number -> place: the order in which the pages were made */
  private readonly index = new NumberIndex();
  private readonly chunks: Uint16Array[] = [];
  private readonly large = new Map<number, number>();
  /** page numbers, ascending; null after a page was added */
  private sorted: Float64Array | null = null;
  private lastNumber = -1;
  private lastChunk: Uint16Array | undefined;
  /** index of the page's first count in its chunk */
  private lastStart = 0;

  get(cluster: number): number {
    const number = Math.floor(cluster / PAGE);
    if (number !== this.lastNumber) this.select(number, this.index.find(number));
    if (this.lastChunk === undefined) return 0;
    const count = this.lastChunk[this.lastStart + cluster - number * PAGE]!;
    return count === LARGE ? this.large.get(cluster)! : count;
  }

  /** The clusters [start, end) of each page that exists, ascending. */
  *ranges(): Generator<{ start: number; end: number }> {
    for (const number of this.numbers()) yield { start: number * PAGE, end: (number + 1) * PAGE };
  }

  /** End of the clusters with references between `start` and `end`; `start` if no cluster there has any. */
  usedEnd(start: number, end: number): number {
    const numbers = this.numbers();
    for (let place = countBelow(numbers, end / PAGE) - 1; place >= 0; place--) {
      const first = numbers[place]! * PAGE;
      if (first + PAGE <= start) break;
      for (let cluster = Math.min(end, first + PAGE) - 1; cluster >= Math.max(start, first); cluster--)
        if (this.get(cluster) > 0) return cluster + 1;
    }
    return start;
  }

  /** @param times may be negative @returns the new count */
  add(cluster: number, times = 1): number {
    const count = this.get(cluster) + times;
    this.set(cluster, count);
    return count;
  }

  set(cluster: number, count: number): void {
    const number = Math.floor(cluster / PAGE);
    if (number !== this.lastNumber || this.lastChunk === undefined) this.select(number, this.make(number));
    const chunk = this.lastChunk!;
    const at = this.lastStart + cluster - number * PAGE;
    if (count >= LARGE) this.large.set(cluster, count);
    else if (chunk[at] === LARGE) this.large.delete(cluster);
    chunk[at] = Math.min(count, LARGE);
  }

  /** @returns the place of the page */
  private make(number: number): number {
    const { size } = this.index;
    const place = this.index.add(number);
    if (place === size) {
      this.sorted = null;
      if (place % CHUNK === 0) this.chunks.push(new Uint16Array(CHUNK * PAGE));
    }
    return place;
  }

  private select(number: number, place: number): void {
    this.lastNumber = number;
    this.lastChunk = place < 0 ? undefined : this.chunks[Math.floor(place / CHUNK)];
    this.lastStart = (place % CHUNK) * PAGE;
  }

  private numbers(): Float64Array {
    this.sorted ??= this.index.sorted();
    return this.sorted;
  }
}
