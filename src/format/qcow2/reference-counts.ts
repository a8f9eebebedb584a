// How often each host cluster is referred to, counted in pages that exist only where something was counted: a hostile image
// that claims 2^40 clusters costs memory for the clusters it uses. A count stops at 65535.

const PAGE = 32768;
const MAX = 65535;

export class ReferenceCounts {
  private readonly pages = new Map<number, Uint16Array>();

  get(cluster: number): number {
    return this.pages.get(Math.floor(cluster / PAGE))?.[cluster % PAGE] ?? 0;
  }

  /** First clusters of the pages that exist, and the cluster behind each page. */
  *ranges(): Generator<{ start: number; end: number }> {
    for (const number of this.pages.keys()) yield { start: number * PAGE, end: (number + 1) * PAGE };
  }

  /** One more reference. @returns the count */
  add(cluster: number): number {
    const number = Math.floor(cluster / PAGE);
    let page = this.pages.get(number);
    if (page === undefined) {
      page = new Uint16Array(PAGE);
      this.pages.set(number, page);
    }
    const count = Math.min(MAX, page[cluster % PAGE]! + 1);
    page[cluster % PAGE] = count;
    return count;
  }
}
