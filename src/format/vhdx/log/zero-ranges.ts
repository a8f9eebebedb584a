// Ranges of the file that a log zeros. They do not overlap, ascend, and each knows the last change that zeroed it.

interface ZeroRange {
  readonly start: number;
  readonly end: number;
  readonly order: number;
}

export class ZeroRanges {
  private readonly list: ZeroRange[] = [];
  /** calls of add() */
  count = 0;

  /** @param order higher than all before */
  add(start: number, end: number, order: number): void {
    this.count++;
    if (start >= end) return;
    const { list } = this;
    const first = this.firstEndingAfter(start);
    let behind = first;
    while (behind < list.length && list[behind]!.start < end) behind++;
    const head = list[first];
    const tail = list[behind - 1];
    const added: ZeroRange[] = [{ start, end, order }];
    if (behind > first && head!.start < start) added.unshift({ ...head!, end: start });
    if (behind > first && tail!.end > end) added.push({ ...tail!, start: end });
    list.splice(first, behind - first, ...added);
  }

  /** The last change that zeroed the byte at `offset`; 0 if none did. */
  orderAt(offset: number): number {
    const found = this.list[this.firstEndingAfter(offset)];
    return found !== undefined && found.start <= offset ? found.order : 0;
  }

  /** Start and end of each. */
  ranges(): number[] {
    return this.list.flatMap(({ start, end }) => [start, end]);
  }

  private firstEndingAfter(offset: number): number {
    let [low, high] = [0, this.list.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.list[middle]!.end > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
