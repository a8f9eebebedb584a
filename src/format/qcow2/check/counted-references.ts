// How often each host cluster is referred to, counted in pages that exist only where something was counted. A page is small,
// because a hostile image can have each entry of 8 bytes refer to another one. What does not fit a page's 16 bits is kept
// beside it.

import { countBelow, NumberIndex } from '../../../bytes/number-index.ts';

/** clusters that one page counts */
const PAGE = 16;
/** pages that are made at a time */
const CHUNK = 256;
/** In a page: the count is in `large`. */
const LARGE = 65535;

export class CountedReferences {
  /** places of the pages by their numbers */
  private readonly index = new NumberIndex();
  private readonly chunks: Uint16Array[] = [];
  private readonly large = new Map<number, number>();
  /** page numbers, ascending; null once there is another page */
  private sorted: Float64Array | null = null;
  private lastNumber = -1;
  private lastChunk: Uint16Array | undefined;
  /** where the page begins in its chunk */
  private lastStart = 0;

  get(cluster: number): number {
    const number = Math.floor(cluster / PAGE);
    if (number !== this.lastNumber) this.select(number, this.index.find(number));
    if (this.lastChunk === undefined) return 0;
    const count = this.lastChunk[this.lastStart + cluster - number * PAGE]!;
    return count === LARGE ? this.large.get(cluster)! : count;
  }

  /** First clusters of the pages that exist, ascending, and the cluster behind each page. */
  *ranges(): Generator<{ start: number; end: number }> {
    for (const number of this.numbers()) yield { start: number * PAGE, end: (number + 1) * PAGE };
  }

  /** Behind the last cluster from `start` to `end` that has references; `start` when none has. */
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

  /** More references, or fewer. @returns the count */
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
