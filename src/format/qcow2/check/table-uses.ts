// The L2 tables that L1 entries refer to, each with its number of references. Typed arrays hold them, because a hostile L1
// table can have 2^22 entries that each lead to another table.

import { NumberIndex, withRoom } from '../../../bytes/number-index.ts';

export class TableUses {
  private readonly index = new NumberIndex();
  private references = new Float64Array(0);
  /** guest offset of the first byte that the table maps */
  private guests = new Float64Array(0);

  /** Number of tables. The place of a table is its index in the order of adding. */
  get size(): number {
    return this.index.size;
  }

  /** @param guest is kept from the first call for a table */
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
