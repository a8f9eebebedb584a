// The L2 tables that L1 tables refer to: each once, with how many entries refer to it. In arrays, because a hostile L1 table
// has 2^22 entries and each may lead to a table of its own.

import { NumberIndex, withRoom } from '../../../bytes/number-index.ts';

export class TableUses {
  private readonly index = new NumberIndex();
  private references = new Float64Array(0);
  /** first byte of the disk that the table maps */
  private guests = new Float64Array(0);

  /** How many tables there are. Each has a place, 0 for the first that was added. */
  get size(): number {
    return this.index.size;
  }

  /** @param guest counts for a table that is new */
  add(table: number, references: number, guest: number): void {
    const known = this.index.size;
    const place = this.index.add(table);
    if (place === known) {
      this.references = withRoom(this.references, place);
      this.guests = withRoom(this.guests, place);
      this.guests[place] = guest;
    }
    this.references[place] = this.references[place]! + references;
  }

  /** The place of the table at this offset, or -1. */
  find(table: number): number {
    return this.index.find(table);
  }

  tableAt(place: number): number {
    return this.index.at(place);
  }

  referencesAt(place: number): number {
    return this.references[place]!;
  }

  guestAt(place: number): number {
    return this.guests[place]!;
  }
}
