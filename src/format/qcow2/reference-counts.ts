// How often each host cluster is referred to, counted in pages that exist only where something was counted: a hostile image
// that claims 2^40 clusters costs memory for the clusters it uses. What does not fit a page's 16 bits is kept beside it.

const PAGE = 2048;
/** In a page: the count is in `large`. */
const LARGE = 65535;

export class ReferenceCounts {
  private readonly pages = new Map<number, Uint16Array>();
  private readonly large = new Map<number, number>();
  private lastNumber = -1;
  private lastPage: Uint16Array | undefined;

  get(cluster: number): number {
    const count = this.page(Math.floor(cluster / PAGE))?.[cluster % PAGE] ?? 0;
    return count === LARGE ? this.large.get(cluster)! : count;
  }

  /** First clusters of the pages that exist, and the cluster behind each page. */
  *ranges(): Generator<{ start: number; end: number }> {
    for (const number of this.pages.keys()) yield { start: number * PAGE, end: (number + 1) * PAGE };
  }

  /** Behind the last cluster from `start` to `end` that has references; `start` when none has. */
  usedEnd(start: number, end: number): number {
    for (let number = Math.ceil(end / PAGE) - 1; number >= Math.floor(start / PAGE); number--) {
      const page = this.pages.get(number);
      if (page === undefined) continue;
      const first = Math.max(start - number * PAGE, 0);
      for (let i = Math.min(end - number * PAGE, PAGE) - 1; i >= first; i--)
        if (page[i]! > 0) return number * PAGE + i + 1;
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
    let page = this.page(number);
    if (page === undefined) {
      page = new Uint16Array(PAGE);
      this.pages.set(number, page);
      this.lastPage = page;
    }
    if (count >= LARGE) this.large.set(cluster, count);
    else if (page[cluster % PAGE] === LARGE) this.large.delete(cluster);
    page[cluster % PAGE] = Math.min(count, LARGE);
  }

  private page(number: number): Uint16Array | undefined {
    if (number !== this.lastNumber) {
      this.lastNumber = number;
      this.lastPage = this.pages.get(number);
    }
    return this.lastPage;
  }
}
