// Another parent of a VHDX, or none: the metadata says one or the other at any moment, and the disk stays what it was over its parent. What
// the image says of its parent is read by nobody but the parser of the engine; the judge reads the disk.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { ParentFacts } from '../../../../src/format/backing-reference.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { distinctCrashStates } from '../../../support/crash-states.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { ITEMS, MIB, mixedVhdx, type VhdxItem, vhdxImage } from '../../../support/vhdx-bytes.ts';
import { vhdxContent } from '../../../support/vhdx-judge.ts';
import { type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const SIZE = 3 * MIB;
/** Zeros, so that a child without a parent shows the same. */
const NOTHING = Buffer.alloc(SIZE);
const GUID = 'abcdef01-2345-4678-8abc-def012345678';
const NAMES: readonly (string | null)[] = [null, 'base.vhdx', '/disks/other.vhdx', `${'deep/'.repeat(60)}base.vhdx`];

function facts(name: string, more: Partial<ParentFacts> = {}): ParentFacts {
  const path = name.startsWith('/') ? name : `/images/${name}`;
  return { path, format: 'vhdx', virtualSize: SIZE, modifiedMs: null, identity: GUID, sectorSize: 512, ...more };
}

function setBacking(file: MemoryHostFile | RecordingHostFile, name: string | null): void {
  if (name === null) vhdx.setBacking!(file, null);
  else vhdx.setBacking!(file, { name, format: 'vhdx' }, facts(name));
}

function open(file: MemoryHostFile, readOnly = false): WritableImage {
  const backing = openImage(raw, new MemoryHostFile(NOTHING, '/base', true), { readOnly: true });
  return openImage(vhdx, file, { backing, readOnly });
}

function contentOf(file: MemoryHostFile): Buffer {
  const bytes = Buffer.alloc(SIZE);
  open(file.clone(true), true).read(bytes, 0, SIZE, guestOffset(0));
  return bytes;
}

function make(name: string | null): MemoryHostFile {
  const file = createMemoryImage(vhdx, SIZE, { block_size: '1M' });
  if (name !== null) setBacking(file, name);
  const image = open(file);
  image.write(Buffer.alloc(5000, 7), 0, 5000, guestOffset(MIB - 2000));
  image.discard(guestOffset(2 * MIB), MIB);
  image.close();
  return file;
}

test('at any moment the image has the old parent or the new one, and shows the same', () => {
  const random = seededRandom(3);
  const seen = new Set<string>();
  for (const from of NAMES) {
    for (const to of NAMES) {
      if (from === to) continue;
      const start = make(from);
      const before = vhdx.inspect(start);
      const wanted = contentOf(start);
      const log: RecordedOperation[] = [];
      const end = start.clone();
      setBacking(new RecordingHostFile(end, log), to);
      const after = vhdx.inspect(end);
      expect(after.backing?.name).toBe(to ?? undefined);
      expect(after.identity).not.toBe(before.identity);
      expect(Buffer.compare(vhdxContent(Buffer.from(end.bytes()), NOTHING), wanted)).toBe(0);
      for (const { state } of distinctCrashStates(start, log, random)) {
        if (random() < 0.93) continue;
        const { backing } = vhdx.inspect(state);
        expect([from, to]).toContain(backing?.name ?? null);
        seen.add(backing?.name === from ? 'old' : 'new');
        expect(Buffer.compare(contentOf(state), wanted)).toBe(0);
        setBacking(state, to);
        expect(vhdx.inspect(state).backing?.name).toBe(to ?? undefined);
        expect(Buffer.compare(contentOf(state), wanted)).toBe(0);
        const { corruptions, checkErrors } = checkImage(vhdx, state, { repair: 'none', log: () => undefined });
        expect([corruptions, checkErrors]).toEqual([0, 0]);
      }
    }
  }
  expect([...seen].sort()).toEqual(['new', 'old']);
});

test('a child stores a relative name and the absolute one, and an absolute one alone', () => {
  const file = make(null);
  setBacking(file, 'sub/base.vhdx');
  expect(vhdx.inspect(file).backing).toMatchObject({
    ...{ name: 'sub/base.vhdx', otherNames: ['/images/sub/base.vhdx', 'base.vhdx'], format: 'vhdx' },
    identity: { values: [GUID] },
  });
  setBacking(file, '/disks/other.vhdx');
  expect(vhdx.inspect(file).backing).toMatchObject({ name: '/disks/other.vhdx', otherNames: ['other.vhdx'] });
});

test('an image that becomes a child has no entry that nobody has read until then', () => {
  const image = mixedVhdx({
    editBat: (bat) => {
      // behind the last block, and where the bitmap of the chunk would be
      bat.writeBigUInt64LE(7n, 8 * 6);
      bat.writeBigUInt64LE(BigInt(40 * MIB) | 6n, 8 * 4096);
    },
  }).image;
  const wanted = vhdxContent(image);
  const file = new MemoryHostFile(image);
  setBacking(file, 'base.vhdx');
  expect(checkImage(vhdx, file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0 });
  expect(Buffer.compare(vhdxContent(Buffer.from(file.bytes())), wanted)).toBe(0);
});

test('without a parent what was here in parts has zeros where the parent was seen', () => {
  const data = Buffer.alloc(MIB, 0x5a);
  const locator = { parent_linkage: `{${GUID}}`, relative_path: '.\\base.vhdx' };
  const blocks = [{ state: 7, data, isHere: (sector: number) => sector % 5 < 2 }, { state: 0 }, { state: 6, data }];
  const { image } = vhdxImage({ blocks, locator });
  const wanted = vhdxContent(image, NOTHING);
  const file = new MemoryHostFile(image);
  setBacking(file, null);
  expect(vhdx.inspect(file).backing).toBeUndefined();
  expect(Buffer.compare(vhdxContent(Buffer.from(file.bytes())), wanted)).toBe(0);
  expect(checkImage(vhdx, file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0 });
});

describe('is refused by name, and nothing is changed:', () => {
  test.each([
    ['a parent without a GUID', {}, facts('b', { identity: '1a2b3c4d' }), /knows its parent by a GUID/],
    [
      'sectors of another size',
      {},
      facts('b', { sectorSize: 4096 }),
      /sectors have 512 bytes, and those of b have 4096/,
    ],
    ['a fixed image', { subformat: 'fixed' }, facts('b'), /a fixed VHDX has no backing file/],
  ] as const)('%s', (_, options, parent, sentence) => {
    const file = createMemoryImage(vhdx, SIZE, { block_size: '1M', ...options });
    const before = Buffer.from(file.bytes());
    expect(() => vhdx.setBacking!(file, { name: 'b', format: 'vhdx' }, parent)).toThrow(sentence);
    expect(Buffer.compare(before, file.bytes())).toBe(0);
  });

  test.each([
    ['a\\b', /backslash/],
    ['http://host/base.vhdx', /no URLs/],
    [`/${'long/'.repeat(1800)}b`, /characters/],
  ])('the name %s', (name, sentence) => {
    const file = createMemoryImage(vhdx, SIZE, { block_size: '1M' });
    expect(() => setBacking(file, name)).toThrow(sentence);
  });

  test('metadata without room', () => {
    const editItems = (items: VhdxItem[]): VhdxItem[] => [
      ...items,
      { id: 'deadbeef-0000-4000-8000-000000000000', data: Buffer.alloc(MIB - 66_000, 1), flags: 0 },
    ];
    const { image } = vhdxImage({ blocks: [{ state: 0 }], editItems });
    const file = new MemoryHostFile(image);
    expect(() => setBacking(file, `${'deep/'.repeat(60)}base.vhdx`)).toThrow(/no room/);
    expect(vhdx.inspect(file).backing).toBeUndefined();
  });
});

test('items that nobody here knows stay, whichever place the locator has in the table', () => {
  const other = { id: 'deadbeef-0000-4000-8000-000000000000', data: Buffer.from('theirs'), flags: 0 };
  const locator = { parent_linkage: `{${GUID}}`, relative_path: '.\\base.vhdx' };
  const { image, metadataAt } = vhdxImage({
    ...{ blocks: [{ state: 0 }], locator },
    editItems: (items) => [
      ...items.filter(({ id }) => id === ITEMS.locator),
      other,
      ...items.filter(({ id }) => id !== ITEMS.locator),
    ],
  });
  const file = new MemoryHostFile(image);
  setBacking(file, null);
  const count = Buffer.from(file.bytes()).readUInt16LE(metadataAt + 10);
  expect(count).toBe(6);
  expect(Buffer.from(file.bytes()).includes('theirs')).toBe(true);
  setBacking(file, 'base.vhdx');
  expect(vhdx.inspect(file)).toMatchObject({ backing: { name: 'base.vhdx' }, virtualSize: MIB });
});
