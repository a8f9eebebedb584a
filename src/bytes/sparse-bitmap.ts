// A set of numbers as a bitmap in pages that exist only where a bit is set: a hostile image that claims 2^40 clusters costs
// memory for the clusters it uses.

const PAGE_BITS = 65536;

export class SparseBitmap {
  private readonly pages = new Map<number, Uint8Array>();
  private bits = 0;

  /** Number of bits that are set. */
  get count(): number {
    return this.bits;
  }

  has(bit: number): boolean {
    const page = this.pages.get(Math.floor(bit / PAGE_BITS));
    if (page === undefined) return false;
    const inPage = bit % PAGE_BITS;
    return (page[inPage >> 3]! & (1 << (inPage & 7))) !== 0;
  }

  /** Sets a bit. @returns false if it was set already */
  add(bit: number): boolean {
    const number = Math.floor(bit / PAGE_BITS);
    let page = this.pages.get(number);
    if (page === undefined) {
      page = new Uint8Array(PAGE_BITS / 8);
      this.pages.set(number, page);
    }
    const inPage = bit % PAGE_BITS;
    const mask = 1 << (inPage & 7);
    if ((page[inPage >> 3]! & mask) !== 0) return false;
    page[inPage >> 3]! |= mask;
    this.bits++;
    return true;
  }

  /** Runs [start, end) of bits below `limit` that are not set, in order. */
  *gaps(limit: number): Generator<{ start: number; end: number }> {
    let start = 0;
    for (let bit = 0; bit < limit; ) {
      if (!this.pages.has(Math.floor(bit / PAGE_BITS))) {
        bit = Math.min(limit, (Math.floor(bit / PAGE_BITS) + 1) * PAGE_BITS);
        continue;
      }
      if (this.has(bit)) {
        if (bit > start) yield { start, end: bit };
        start = bit + 1;
      }
      bit++;
    }
    if (limit > start) yield { start, end: limit };
  }
}
