// PendingLinks against a map in order of arrival, and sizes as qemu-img spells them.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { hostOffset } from '../../../../src/bytes/offsets.ts';
import { createPendingLinksState, NOT_PENDING, PendingLinks } from '../../../../src/format/mapped/pending-links.ts';
import { parseSize } from '../../../../src/format/size.ts';

test('pending links behave as a list of live and dropped entries', () => {
  const step = fc.record({ kind: fc.constantFrom('add', 'add', 'drop', 'batch'), guest: fc.nat(40), part: fc.nat(20) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const state = createPendingLinksState(12);
      const [pending, other] = [new PendingLinks<number>(state), new PendingLinks<number>(state)];
      let model: { guest: number; host: number; ms: number; live: boolean }[] = [];
      let host = -4096;
      for (const { kind, guest, part } of steps) {
        const present = model.find((each) => each.guest === guest && each.live);
        if (kind === 'add' && present === undefined && pending.hasRoom(1)) {
          host += 4096;
          pending.add(guest, hostOffset(host), host);
          model.push({ guest, host, ms: host, live: true });
        } else if (kind === 'drop') {
          expect(pending.drop(guest)).toBe(present?.host ?? NOT_PENDING);
          if (present !== undefined) present.live = false;
        } else if (kind === 'batch') {
          const count = Math.min(part, model.length);
          const wanted = model.slice(0, count).filter(({ live }) => live);
          expect(pending.first(count)).toEqual(
            wanted
              .map((each) => ({ guestCluster: each.guest, hostOffset: each.host, allocated: 0xffffffff, zero: 0 }))
              .sort((a, b) => a.guestCluster - b.guestCluster),
          );
          expect([...pending.indicesOfFirst(count)]).toEqual(wanted.map((each) => each.guest));
          for (const each of wanted) expect(pending.find(each.guest, count)).toBe(each.host);
          pending.removeFirst(count);
          model = model.slice(count);
        }
        expect(other.count).toBe(model.length);
        expect(other.isEmpty).toBe(model.length === 0);
        expect(other.hasRoom(12 - model.length)).toBe(true);
        expect(other.hasRoom(13 - model.length)).toBe(false);
        expect(other.oldestMs()).toBe(model[0]?.ms ?? Number.POSITIVE_INFINITY);
        for (let each = 0; each <= 40; each++) {
          expect(other.find(each)).toBe(model.find((entry) => entry.guest === each && entry.live)?.host ?? NOT_PENDING);
        }
      }
    }),
    { numRuns: 100 },
  );
});

test('a cluster with subclusters waits more than once: batches see the last of theirs, lookups the last of all', () => {
  const pending = new PendingLinks<number>(createPendingLinksState(8));
  pending.add(7, hostOffset(4096), 1, 0b01, 0b10);
  pending.add(3, hostOffset(8192), 2);
  const batch = pending.count;
  pending.add(7, hostOffset(4096), 3, 0b11, 0);
  expect(pending.find(7)).toBe(4096);
  expect([pending.allocated, pending.zero]).toEqual([0b11, 0]);
  expect([...pending.indicesOfFirst(batch)]).toEqual([7, 3]);
  expect(pending.find(7, batch)).toBe(4096);
  expect([pending.allocated, pending.zero]).toEqual([0b01, 0b10]);
  expect(pending.first(batch)).toEqual([
    { guestCluster: 3, hostOffset: 8192, allocated: 0xffffffff, zero: 0 },
    { guestCluster: 7, hostOffset: 4096, allocated: 0b01, zero: 0b10 },
  ]);
  expect(pending.drop(7, batch)).toBe(4096);
  expect(pending.find(7)).toBe(4096);
  pending.removeFirst(batch);
  expect(pending.first(1)).toEqual([{ guestCluster: 7, hostOffset: 4096, allocated: 0b11, zero: 0 }]);
  pending.add(7, hostOffset(4096), 4, 0b111, 0);
  expect(pending.drop(7)).toBe(4096);
  expect(pending.find(7)).toBe(NOT_PENDING);
  expect(() => {
    pending.add(5, hostOffset(4096), 5);
    pending.add(5, hostOffset(12288), 6);
  }).toThrow(/waits for one host cluster/);
});

test('links are overdue half a second after the oldest of them came', () => {
  const pending = new PendingLinks<number>(createPendingLinksState(2));
  expect(pending.isOverdue(10_000)).toBe(false);
  pending.add(1, hostOffset(4096), 1000);
  pending.add(2, hostOffset(8192), 1400);
  expect([pending.isOverdue(1499), pending.isOverdue(1500)]).toEqual([false, true]);
  pending.removeFirst(1);
  expect([pending.isOverdue(1899), pending.isOverdue(1900)]).toEqual([false, true]);
});

test.each([
  ['0', 0],
  ['512', 512],
  ['1k', 1024],
  ['3K', 3072],
  ['7b', 7],
  ['10M', 10_485_760],
  ['1.5G', 1_610_612_736],
  ['0.5k', 512],
  ['2T', 2 ** 41],
  ['7P', 7 * 2 ** 50],
])('the size %s is %i bytes', (text, bytes) => {
  expect(parseSize(text)).toBe(bytes);
});

test.each([
  '',
  ' ',
  '-1',
  '+1',
  '1.5',
  '1x',
  '1kk',
  'k',
  '0x10',
  '1e9',
  '1 k',
  '.5k',
  '8P',
  '9P',
  '1E',
  '99999999999999999999',
])('the size "%s" is refused', (text) => {
  expect(() => parseSize(text)).toThrow(/size|bytes/);
});
