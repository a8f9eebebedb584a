// Changes of a descriptor that move its lines: another parent, and an extent line with more digits. A power cut at any moment leaves
// the old text or the new one, whatever a program other than imgfuse has made of the rest.

import { describe, expect, test } from 'vitest';
import { hostOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import { isMeant, type ParentFacts } from '../../../../src/format/backing-reference.ts';
import { cidsAfterCommits } from '../../../../src/format/vmdk/commits.ts';
import { withSectors } from '../../../../src/format/vmdk/descriptor/edit.ts';
import { parseDescriptor } from '../../../../src/format/vmdk/descriptor/parse.ts';
import { findDescriptor, plainWriter, replaceText } from '../../../../src/format/vmdk/descriptor/place.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { distinctCrashStates } from '../../../support/crash-states.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { descriptorText } from '../../../support/vmdk-text.ts';
import { FaultyHostFile, type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const UUIDS = {
  image: '6d1f0ab2-3c11-4a44-9d5e-0123456789ab',
  modification: '7e2f0ab2-3c11-4a44-9d5e-0123456789ab',
  none: '00000000-0000-0000-0000-000000000000',
};
const NAMES: readonly (string | null)[] = [
  null,
  'base.vmdk',
  `/${'deep/'.repeat(60)}base.vmdk`,
  `/${'long/'.repeat(190)}b`,
];

/** Long enough for several sectors: names of extents, and what VMware and VirtualBox store. */
function textOf(name: string | null, extents: number, newline = '\n'): string {
  return descriptorText({
    newline,
    cid: '1a2b3c4d',
    ...(name === null ? {} : { parentCid: '0000beef', lines: [`parentFileNameHint="${name}"`] }),
    extents: Array.from({ length: extents }, (_, i) => `RW 99999 SPARSE "disk-s00${i}.vmdk"`),
    ddb: [
      'ddb.adapterType = "lsilogic"',
      `ddb.longContentID = "${'0f'.repeat(12)}1a2b3c4d"`,
      `ddb.uuid.image="${UUIDS.image}"`,
      `ddb.uuid.parent="${UUIDS.none}"`,
      `ddb.uuid.modification="${UUIDS.modification}"`,
      `ddb.uuid.parentmodification="${UUIDS.none}"`,
    ],
  });
}

function factsOf(name: string, identity = `c0ffee00 ${UUIDS.image} ${UUIDS.modification}`): ParentFacts {
  return { path: name, format: 'vmdk', virtualSize: 0, modifiedMs: null, identity };
}

function setBacking(file: MemoryHostFile | RecordingHostFile | FaultyHostFile, name: string | null): void {
  if (name === null) vmdk.setBacking!(file, null);
  else vmdk.setBacking!(file, { name }, factsOf(name));
}

const read = (file: MemoryHostFile): string => findDescriptor(file).text;
/** They are random. */
const withoutCids = (text: string): string => text.replace(/^(CID=|ddb.longContentID|ddb.uuid.modification).*$/gm, '');

describe.each<readonly [string, (name: string | null) => MemoryHostFile]>([
  ['a file of one extent', (name) => new MemoryHostFile(Buffer.from(textOf(name, 1)))],
  ['a file of 30 extents', (name) => new MemoryHostFile(Buffer.from(textOf(name, 30)))],
  ['a file with CRLF', (name) => new MemoryHostFile(Buffer.from(textOf(name, 3, '\r\n')))],
  ['a sparse extent', (name) => createMemoryImage(vmdk, 1024 * 1024, {}, name ?? undefined)],
])('the descriptor in %s', (_, make) => {
  test('has the old parent or the new one, whenever the power goes, and a new CID', () => {
    const random = seededRandom(1);
    for (const from of NAMES) {
      for (const to of NAMES) {
        if (from === null && to === null) continue;
        const start = make(from);
        const log: RecordedOperation[] = [];
        const end = start.clone();
        setBacking(new RecordingHostFile(end, log), to);
        const [before, after] = [read(start), read(end)];
        expect(vmdk.inspect(end).backing?.name).toBe(to ?? undefined);
        expect(vmdk.inspect(end).backing?.identity?.values).toEqual(to === null ? undefined : ['c0ffee00']);
        expect(vmdk.inspect(end).identity?.split(' ')[0]).not.toBe(vmdk.inspect(start).identity?.split(' ')[0]);
        for (const { moment, state, subset } of distinctCrashStates(start, log, random)) {
          expect([before, after], `moment ${moment}, ${subset}`).toContain(read(state));
          // the next change completes this one
          setBacking(state, from);
          expect(withoutCids(read(state)), `moment ${moment}, ${subset}`).toBe(withoutCids(expectedBack(before, from)));
          expect(findDescriptor(state).isChanging).toBe(false);
        }
      }
    }
  });
});

/** The text with a parent that setBacking() has named. */
function expectedBack(text: string, name: string | null): string {
  const [image, modification] = name === null ? [UUIDS.none, UUIDS.none] : [UUIDS.image, UUIDS.modification];
  return text
    .replace(/^parentCID=\w+/m, `parentCID=${name === null ? 'ffffffff' : 'c0ffee00'}`)
    .replace(/ddb.uuid.parent=".*"/, `ddb.uuid.parent="${image}"`)
    .replace(/ddb.uuid.parentmodification=".*"/, `ddb.uuid.parentmodification="${modification}"`);
}

test('a change that was cut short is complete after a read-write open, and the check finds it', () => {
  const start = createMemoryImage(vmdk, 1024 * 1024, {}, 'a');
  const log: RecordedOperation[] = [];
  setBacking(new RecordingHostFile(start.clone(), log), 'c'.repeat(700));
  let found = 0;
  for (const { state } of distinctCrashStates(start, log, seededRandom(2))) {
    if (!findDescriptor(state).isChanging) continue;
    found++;
    expect(vmdk.inspect(state).dirty).toBe(true);
    const text = read(state);
    const said: string[] = [];
    const check = (repair: 'all' | 'none') => checkImage(vmdk, repaired, { repair, log: (line) => said.push(line) });
    const repaired = state.clone();
    expect(check('none')).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
    expect(said).toEqual(['ERROR a change of the descriptor was cut short']);
    expect(check('all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(check('none')).toMatchObject({ corruptions: 0 });
    const backing = openImage(vmdk, createMemoryImage(vmdk, 1024 * 1024), { readOnly: true });
    openImage(vmdk, state, { backing, log: (line) => said.push(line) }).close();
    expect(said).toContainEqual(expect.stringContaining('was cut short, and is complete now'));
    for (const file of [repaired, state]) {
      expect(findDescriptor(file).isChanging).toBe(false);
      expect(vmdk.inspect(file).dirty).toBe(false);
      expect(read(file)).toBe(text);
      expect(Buffer.from(file.bytes()).includes('imgfuse:')).toBe(false);
    }
  }
  expect(found).toBeGreaterThan(2);
});

test('whoever has changed the text since a change was cut short is right', () => {
  const start = new MemoryHostFile(Buffer.from(textOf('a', 20)));
  const log: RecordedOperation[] = [];
  setBacking(new RecordingHostFile(start.clone(), log), 'b'.repeat(100));
  const old = Buffer.from(start.bytes());
  const half = [...distinctCrashStates(start, log, seededRandom(3))]
    .map(({ state }) => state)
    .find((each) => findDescriptor(each).isChanging && Buffer.from(each.bytes()).subarray(0, old.length).equals(old))!;
  expect(vmdk.inspect(half).backing?.name).toBe('b'.repeat(100));
  const text = Buffer.from(half.bytes()).toString('latin1');
  const other = Buffer.from(text.replace(/^CID=\w+/m, 'CID=12121212'), 'latin1');
  half.write(other, 0, other.length, hostOffset(0));
  expect(vmdk.inspect(half)).toMatchObject({ identity: expect.stringMatching(/^12121212 /), backing: { name: 'a' } });
  setBacking(half, 'c');
  expect(Buffer.from(half.bytes()).includes('imgfuse:')).toBe(false);
});

test('an extent line with one digit more is the old one or the new one, whenever the power goes', () => {
  const start = new MemoryHostFile(Buffer.from(textOf(null, 40)));
  const log: RecordedOperation[] = [];
  const file = new RecordingHostFile(start.clone(), log);
  const grow = (text: string): string => withSectors(text, 39, 100_000, 1_000_000);
  replaceText(file, findDescriptor(file).place, grow, plainWriter(file));
  const sizes = (of: MemoryHostFile): number => parseDescriptor(read(of), '').extents[39]!.length / 512;
  for (const { state } of distinctCrashStates(start, log, seededRandom(4)))
    expect([99_999, 100_000]).toContain(sizes(state));
});

test('a full host or a failing one keeps the old parent', () => {
  for (const errno of [ERRNO.ENOSPC, ERRNO.EIO]) {
    const file = new MemoryHostFile(Buffer.from(textOf('a', 1)));
    const before = file.bytes();
    const faulty = new FaultyHostFile(file, (operation) => (operation === 'write' ? errno : null));
    expect(() => setBacking(faulty, 'another')).toThrow();
    expect(file.bytes()).toEqual(before);
  }
});

test('a parent that the image cannot have is refused, and no byte changes', () => {
  const own = descriptorText({ extents: ['RW 2048 FLAT "disk-flat.vmdk" 0'], createType: 'monolithicFlat' });
  const flat = new MemoryHostFile(Buffer.from(own));
  expect(() => setBacking(flat, 'base')).toThrow(/is a monolithicFlat image, which has no backing file/);
  expect(Buffer.from(flat.bytes()).toString()).toBe(own);
  const image = createMemoryImage(vmdk, 1024 * 1024);
  const before = image.bytes();
  expect(() => vmdk.setBacking!(image, { name: 'raw' }, factsOf('raw', ''))).toThrow(/none or cannot be read/);
  expect(() => vmdk.setBacking!(image, { name: 'gone' })).toThrow(/none or cannot be read/);
  expect(() => setBacking(image, 'a"b')).toThrow(/cannot stand in a VMDK descriptor/);
  expect(() => setBacking(image, 'x'.repeat(5000))).toThrow(/no room for a descriptor/);
  expect(image.bytes()).toEqual(before);
});

describe('after a commit', () => {
  test.each([
    '1a2b3c4d',
    '0001a2b3',
    '00000005',
    'fffffff0',
  ])('a child of %s knows its parent by any number of digits', (parentCid) => {
    for (let digits = parentCid.replace(/^0+/, '').length; digits <= 8; digits++) {
      const parent = createMemoryImage(vmdk, 1024 * 1024);
      const stored = parentCid.slice(8 - digits);
      replaceText(
        parent,
        findDescriptor(parent).place,
        (text) => text.replace(/^CID=\w+/m, `CID=${stored}`),
        plainWriter(parent),
      );
      const child = parseDescriptor(descriptorText({ parentCid, extents: ['RW 1 ZERO'] }), '');
      const identity = { word: 'CID', values: [parentCid], afterCommits: cidsAfterCommits(child, parentCid) };
      const seen = new Set([parentCid]);
      for (let n = 0; n < 8; n++) {
        const image = openImage(vmdk, parent, { committedFrom: identity });
        image.write(new Uint8Array(512), 0, 512, 0 as never);
        image.close();
        const now = vmdk.inspect(parent).identity!;
        expect(isMeant(identity, now)).toBe(true);
        expect(read(parent)).toMatch(new RegExp(`^CID=\\w{${digits}}$`, 'm'));
        seen.add(now);
      }
      expect(seen.size).toBe(9);
      expect(() => openImage(vmdk, parent, { committedFrom: identity })).toThrow(/8 commits into .* were broken off/);
    }
  });

  test('a child stores the new CID where it has room for its digits, and else with eight', () => {
    for (const [cid, stored] of [
      ['0000beef', 'beef'],
      ['c0ffee00', 'c0ffee00'],
    ] as const) {
      const child = createMemoryImage(vmdk, 1024 * 1024, {}, 'base', { parentIdentity: '0000cafe' });
      const shorten = (text: string): string => text.replace('parentCID=0000cafe', 'parentCID=cafe');
      replaceText(child, findDescriptor(child).place, shorten, plainWriter(child));
      const { identity } = vmdk.inspect(child);
      const backing = openImage(vmdk, createMemoryImage(vmdk, 1024 * 1024), { readOnly: true });
      const image = openImage(vmdk, child, { backing });
      image.adoptParent!(cid);
      image.close();
      expect(read(child)).toContain(`\nparentCID=${stored}\n`);
      expect(vmdk.inspect(child).identity).toBe(identity);
    }
  });
});
