// The file names of snapshots: whatever an image calls them, each has one name of its own that a file can have, and its id.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { nameOfBytes } from '../../../src/bytes/names.ts';
import { nameSnapshots } from '../../../src/filesystem/snapshot-names.ts';

function listed(...snapshots: readonly (readonly [id: string, name: string])[]): string[] {
  return [...nameSnapshots(snapshots.map(([id, name]) => ({ id, name }))).listed.keys()];
}

test('a snapshot is a file with its name, and is found by its id as well', () => {
  const { listed: names, found } = nameSnapshots([
    { id: '1', name: 'before the update' },
    { id: '2', name: 'größer' },
  ]);
  expect([...names]).toEqual([
    ['before the update.raw', 0],
    ['größer.raw', 1],
  ]);
  expect(found.get('1.raw')).toBe(0);
  expect(found.get('2.raw')).toBe(1);
  expect(found.get('größer.raw')).toBe(1);
  expect(found.has('3.raw')).toBe(false);
});

test.each([
  ['a/b', 'a%2Fb.raw'],
  ['a\0b', 'a%00b.raw'],
  ['line\nbreak', 'line%0Abreak.raw'],
  ['\x1b[2J', '%1B[2J.raw'],
  ['50%', '50%25.raw'],
  ['%2F', '%252F.raw'],
  ['\u0085', '%C2%85.raw'],
  ['.', '..raw'],
  ['..', '...raw'],
  ['../../etc/passwd', '..%2F..%2Fetc%2Fpasswd.raw'],
  [nameOfBytes(Buffer.from([0x41, 0xff, 0xfe])), 'A%FF%FE.raw'],
])('the name %j is the file %s', (name, file) => {
  expect(listed(['7', name])).toEqual([file]);
});

test('a snapshot without a name, or with one of more than 255 bytes, is listed by its id', () => {
  expect(listed(['1', ''], ['2', 'x'.repeat(252)], ['3', 'é'.repeat(126)], ['4', 'x'.repeat(251)])).toEqual([
    '1.raw',
    '2.raw',
    '3.raw',
    `${'x'.repeat(251)}.raw`,
  ]);
});

test('of two snapshots with one name the first has it, as for qemu-img -l, and the other one is listed by its id', () => {
  expect(listed(['1', 'same'], ['2', 'same'], ['3', 'same'])).toEqual(['same.raw', '2.raw', '3.raw']);
});

test('a name that is the id of another snapshot means that one, as for qemu-img -l', () => {
  const { listed: names, found } = nameSnapshots([
    { id: '1', name: '2' },
    { id: '2', name: '1' },
    { id: '3', name: '3' },
  ]);
  expect([...names]).toEqual([
    ['1.raw', 0],
    ['2.raw', 1],
    ['3.raw', 2],
  ]);
  expect(found.get('1.raw')).toBe(0);
});

test('snapshots that cannot be told apart are listed once', () => {
  expect(listed(['1', 'a'], ['1', 'a'], ['1', 'b'], ['', ''])).toEqual(['a.raw', 'b.raw']);
});

test('every name is a file name of its own, and is found', () => {
  const text = fc.oneof(
    fc.constantFrom('1', '2', 'a', '', '.', '/', '%', '%31'),
    fc.string({ unit: 'binary', maxLength: 4 }),
    fc.uint8Array({ maxLength: 90 }).map((bytes) => nameOfBytes(bytes)),
  );
  fc.assert(
    fc.property(fc.array(fc.record({ id: text, name: text }), { maxLength: 12 }), (snapshots) => {
      const { listed: names, found } = nameSnapshots(snapshots);
      expect(new Set(names.values()).size).toBe(names.size);
      for (const [file, position] of names) {
        expect(found.get(file)).toBe(position);
        expect(file.isWellFormed()).toBe(true);
        expect(Buffer.byteLength(file)).toBeLessThanOrEqual(255);
        expect(file).not.toMatch(/[\p{Cc}/]/u);
      }
      const ids = new Map(snapshots.map(({ id }, position) => [id, position] as const).reverse());
      for (const [id, position] of ids) if (/^[a-z0-9]+$/.test(id)) expect(found.get(`${id}.raw`)).toBe(position);
    }),
    { numRuns: 500 },
  );
});
