// Bits that wait and bits that are stored, against a plain array of sectors.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { guestCluster, hostOffset } from '../../../../src/bytes/offsets.ts';
import { createPendingLinksState, PendingLinks } from '../../../../src/format/mapped/pending-links.ts';
import type { Bat } from '../../../../src/format/vhdx/bat.ts';
import { Bitmaps } from '../../../../src/format/vhdx/bitmaps.ts';
import { Geometry } from '../../../../src/format/vhdx/geometry.ts';
import { MIB } from '../../../support/vhdx-bytes.ts';

const BITMAP = hostOffset(5 * MIB);
/** Of the second chunk, so that neither numbers nor places begin at 0. */
const FIRST = 2 ** 23 + 2048;
const SECTORS = 4096;

function make() {
  const bytes = new Uint8Array(MIB);
  const slices = { view: new DataView(bytes.buffer), load: (offset: number) => offset - BITMAP };
  const geometry = new Geometry({ blockBytes: MIB, sectorBytes: 512, virtualSize: 2 ** 34, parent: 'one' });
  const bat = { slices } as unknown as Pick<Bat, 'slices'>;
  return { bytes, bitmaps: new Bitmaps(bat, geometry, new PendingLinks<number>(createPendingLinksState(2048))) };
}

const range = fc.tuple(fc.nat(SECTORS - 1), fc.integer({ min: 1, max: 300 })).map(([start, count]) => ({
  start,
  end: Math.min(SECTORS, start + count),
}));

test('what is set or stored is here, up to the first sector that is not', () => {
  fc.assert(
    fc.property(fc.array(range, { maxLength: 12 }), fc.array(range, { maxLength: 12 }), range, (stored, set, asked) => {
      const { bitmaps, bytes } = make();
      const isStored = Array<boolean>(SECTORS).fill(false);
      for (const { end, start } of stored) {
        isStored.fill(true, start, end);
        for (let sector = start; sector < end; sector++) bytes[(2048 + sector) >> 3]! |= 1 << (sector & 7);
      }
      const isHere = isStored.slice();
      for (const { end, start } of set) {
        isHere.fill(true, start, end);
        bitmaps.set(BITMAP, FIRST + start, FIRST + end, 0);
      }
      const endOf = (bits: readonly boolean[], isSet: boolean): number => {
        let at = asked.start;
        while (at < asked.end && bits[at] === isSet) at++;
        return FIRST + at;
      };
      const [first, end] = [FIRST + asked.start, FIRST + asked.end];
      for (const isSet of [true, false]) {
        expect(bitmaps.endOf(BITMAP, first, end, isSet)).toBe(endOf(isHere, isSet));
        expect(bitmaps.endOfStored(BITMAP, first, end, isSet)).toBe(endOf(isStored, isSet));
      }
      // the blocks of these sectors
      for (const block of [1, 2]) bitmaps.drop(guestCluster(2 ** 12 + block));
      expect(bitmaps.endOf(BITMAP, first, end, true)).toBe(endOf(isStored, true));
    }),
    { seed: 7 },
  );
});

test('there is room for as many words as the list takes', () => {
  const { bitmaps } = make();
  expect(bitmaps.hasRoom(2047 * 32)).toBe(true);
  expect(bitmaps.hasRoom(2047 * 32 + 1)).toBe(false);
});
