// setBacking() of VHD: the header names another parent, or none, and nothing else changes. A power cut at any moment leaves all of the
// old reference or all of the new one.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { BackingReference, ParentFacts, ReadableImage } from '../../../../src/format/image-format.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { distinctCrashStates } from '../../../support/crash-states.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { reusingSharedMemory } from '../../../support/reused-memory.ts';
import { MIXED_SECTORS, UUID, type VhdSpec, vhdImage } from '../../../support/vhd-bytes.ts';
import { type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const OTHER_UUID = 'bbbbbbbb-0000-1111-2222-cccccccccccc';
const DAY_MS = 24 * 3600 * 1000;

interface Target {
  readonly backing: BackingReference | null;
  readonly facts?: ParentFacts;
}

function target(name: string, format: string, identity?: string): Target {
  const facts = { path: `/${name}`, format, virtualSize: 4096, modifiedMs: Date.UTC(2010, 1, 1) };
  return { backing: { name, format }, facts: identity === undefined ? facts : { ...facts, identity } };
}

const TARGETS: readonly Target[] = [
  { backing: null },
  target('base.raw', 'raw'),
  target('other.vhd', 'vpc', OTHER_UUID),
  target(`/${'deep/'.repeat(60)}base.vhd`, 'vpc', UUID),
  target(`${'long/'.repeat(500)}b.vhd`, 'vpc', OTHER_UUID),
];

/** As imgfuse makes them, and as others do: without a gap, with a wide one, with a footer that is a byte short. */
const CHILD: VhdSpec = {
  type: 4,
  sectors: MIXED_SECTORS,
  uuid: '12345678-0000-1111-2222-cccccccccccc',
  parentUuid: UUID,
};
const LOCATORS = [{ code: 'W2ru', name: '.\\base.vhd' }];
const IMAGES: readonly [name: string, make: () => MemoryHostFile][] = [
  ['of imgfuse', () => createMemoryImage(vpc, 203 * 512, { block_size: '4k' })],
  ['of another program', () => new MemoryHostFile(vhdImage({ ...CHILD, locators: LOCATORS }).image)],
  ['with gaps', () => new MemoryHostFile(vhdImage({ ...CHILD, locators: LOCATORS, gapSectors: 9 }).image)],
  ['with slack', () => new MemoryHostFile(vhdImage({ ...CHILD, locators: LOCATORS, slack: 3584 }).image)],
  ['with a short footer', () => new MemoryHostFile(vhdImage({ ...CHILD, locators: LOCATORS, footerBytes: 511 }).image)],
  [
    'with a batmap',
    () =>
      new MemoryHostFile(vhdImage({ sectors: MIXED_SECTORS, creator: 'tap\0', batmap: [], uuid: CHILD.uuid! }).image),
  ],
];

function setBacking(file: MemoryHostFile | RecordingHostFile, { backing, facts }: Target): void {
  vpc.setBacking!(file, backing, facts);
}

function referenceOf(file: MemoryHostFile): string {
  return JSON.stringify(vpc.inspect(file).backing ?? null);
}

/** What an image says of its parent that was made on it. */
function expected({ backing, facts }: Target): string {
  const file = new MemoryHostFile();
  const parent = { ...(backing === null ? {} : { backing }), ...(facts === undefined ? {} : { parent: facts }) };
  vpc.create(file, { size: 4096, options: new Map(), ...parent });
  return referenceOf(file);
}

/** The disk over whatever is below. */
function contentOf(file: MemoryHostFile, below: number): Buffer {
  const parent = new MemoryHostFile(Buffer.alloc(400 * 512, below), 'parent', true);
  const backing: ReadableImage = openImage(raw, parent, { readOnly: true });
  const image = openImage(vpc, file.clone(true), { readOnly: true, backing });
  const content = Buffer.alloc(image.virtualSize());
  image.read(content, 0, content.length, guestOffset(0));
  return content;
}

function findings(file: MemoryHostFile): { readonly corruptions: number; readonly said: readonly string[] } {
  const said: string[] = [];
  const { corruptions } = checkImage(vpc, file, { repair: 'none', log: (sentence) => said.push(sentence) });
  return { corruptions, said };
}

/** Blocks of `over` that are all 77, as the parent is, and those of `alone` for the others. */
function wholeBlocks(alone: Buffer, over: Buffer): Buffer {
  const content = Buffer.from(alone);
  for (let at = 0; at < content.length; at += 4096) {
    const block = over.subarray(at, at + 4096);
    if (block.every((byte) => byte === 77)) block.copy(content, at);
  }
  return content;
}

describe.each(IMAGES)('an image %s', (_, make) => {
  test('has all of the old reference or all of the new one, whenever the power goes', () => {
    const random = seededRandom(1);
    const [alone, over] = [TARGETS[0]!, TARGETS[1]!].map((to) => {
      const file = make();
      setBacking(file, to);
      return contentOf(file, 77);
    }) as [Buffer, Buffer];
    for (const from of [TARGETS[0]!, TARGETS[2]!, TARGETS[4]!]) {
      const start = make();
      setBacking(start, from);
      // a disk that has lost its parent has whole blocks, so that only its other blocks show a parent again
      const hasLost = from.backing === null && vpc.inspect(make()).backing !== undefined;
      const overIt = hasLost ? wholeBlocks(alone, over) : over;
      for (const to of TARGETS) {
        const log: RecordedOperation[] = [];
        setBacking(new RecordingHostFile(start.clone(), log), to);
        const allowed = [referenceOf(start), expected(to)];
        const contents = [from, to].map((each) => (each.backing === null ? alone : overIt));
        const found = new Set<string>();
        for (const { moment, state, subset } of distinctCrashStates(start, log, random)) {
          const reference = referenceOf(state);
          found.add(reference);
          expect(allowed, `moment ${moment}, ${subset}`).toContain(reference);
          reusingSharedMemory(() => {
            expect(contents.some((wanted) => contentOf(state, 77).equals(wanted))).toBe(true);
            // a read-write open mends all there is to mend
            openImage(vpc, state, { backing: openImage(raw, new MemoryHostFile(), { readOnly: true }) }).close();
            expect(findings(state)).toEqual({ corruptions: 0, said: [] });
          });
          expect(referenceOf(state)).toBe(reference);
        }
        expect(found).toContain(expected(to));
      }
    }
  });

  test('can be changed over and over, keeps its blocks, and grows by no more than its names take', () => {
    const file = make();
    setBacking(file, TARGETS[3]!);
    const content = contentOf(file, 77);
    const size = file.size();
    for (let round = 0; round < 40; round++) {
      const to = TARGETS[1 + (round % 4)]!;
      setBacking(file, to);
      expect(referenceOf(file)).toBe(expected(to));
      expect(contentOf(file, 77).equals(content)).toBe(true);
      expect(findings(file).corruptions).toBe(0);
    }
    expect(file.size()).toBeLessThanOrEqual(size + 4 * 8192);
    // programs that do not ask the footer find the header there
    expect(Buffer.from(file.bytes().subarray(512, 520)).toString()).toBe('cxsparse');
  });
});

test('a header that a crash has left elsewhere comes home with the next change', () => {
  const start = new MemoryHostFile(vhdImage({ ...CHILD, locators: LOCATORS }).image);
  const log: RecordedOperation[] = [];
  setBacking(new RecordingHostFile(start.clone(), log), TARGETS[2]!);
  let away = 0;
  for (const { state } of distinctCrashStates(start, log, seededRandom(3))) {
    if (Buffer.from(state.bytes()).readBigUInt64BE(16) === 512n) continue;
    away++;
    openImage(vpc, state, { backing: openImage(raw, new MemoryHostFile(), { readOnly: true }) }).close();
    setBacking(state, TARGETS[1]!);
    expect(referenceOf(state)).toBe(expected(TARGETS[1]!));
    expect(Buffer.from(state.bytes()).readBigUInt64BE(16)).toBe(512n);
  }
  expect(away).toBeGreaterThan(0);
});

test('a name that leads nowhere can be replaced; any other damage is refused, and no byte changes', () => {
  const lost = new MemoryHostFile(
    vhdImage({ ...CHILD, locators: [{ code: 'W2ru', name: '.\\base.vhd', offset: 1 << 30 }] }).image,
  );
  expect(() => vpc.inspect(lost)).toThrow(/ends beyond the file/);
  setBacking(lost, TARGETS[2]!);
  expect(referenceOf(lost)).toBe(expected(TARGETS[2]!));
  const damaged: readonly [VhdSpec, RegExp][] = [
    [{ editTable: (table) => table.writeUInt32BE(0x00ffffff, 4) }, /its table has 1 error; repair a copy/],
    [{ editTable: (table) => table.writeUInt32BE(table.readUInt32BE(8), 0) }, /its table has 1 error/],
  ];
  for (const [spec, sentence] of damaged) {
    const file = new MemoryHostFile(vhdImage({ ...CHILD, ...spec, locators: LOCATORS }).image);
    const before = Buffer.from(file.bytes());
    expect(() => setBacking(file, TARGETS[1]!)).toThrow(sentence);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  }
  const { image } = vhdImage({ ...CHILD, locators: LOCATORS });
  image.writeUInt32BE(0, image.length - 500);
  expect(() => setBacking(new MemoryHostFile(image), TARGETS[1]!)).toThrow(/footer at the end is missing or damaged/);
});

test('what cannot be the parent is refused by name, and no byte changes', () => {
  const fixed = createMemoryImage(vpc, 4096, { subformat: 'fixed' });
  const dynamic = createMemoryImage(vpc, 4096);
  const cases: [MemoryHostFile, Target, RegExp][] = [
    [fixed, TARGETS[1]!, /a fixed VHD has no backing file/],
    [
      dynamic,
      target('base.qcow2', 'qcow2'),
      /is not rebased: the backing file of a VHD is a VHD or a raw file, not qcow2/,
    ],
    [dynamic, { backing: { name: 'gone.vhd', format: 'vpc' } }, /gone\.vhd is not there, and a VHD stores the UUID/],
    [dynamic, target('copy.vhd', 'vpc', vpc.inspect(dynamic).identity), /copy\.vhd has the same UUID/],
    [dynamic, target('a\\b.vhd', 'vpc', UUID), /has a backslash/],
    [dynamic, target('x'.repeat(5000), 'vpc', UUID), /takes 10004 bytes as UTF-16, and 8192 are read/],
  ];
  for (const [file, to, sentence] of cases) {
    const before = Buffer.from(file.bytes());
    expect(() => setBacking(file, to)).toThrow(sentence);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  }
  setBacking(fixed, TARGETS[0]!);
});

describe('the time of the parent', () => {
  const parentFile = (ms: number): MemoryHostFile =>
    Object.assign(new MemoryHostFile(Buffer.alloc(64 * 1024, 5), 'parent', true), { modifiedMs: () => ms });
  const now = Date.UTC(2020, 1, 1);

  function session(file: MemoryHostFile, ms: number, action: (image: ReturnType<typeof openChild>) => void): string[] {
    const said: string[] = [];
    const image = openChild(file, ms, said);
    action(image);
    image.close();
    return said;
  }

  function openChild(file: MemoryHostFile, ms: number, said: string[]) {
    const backing = openImage(raw, parentFile(ms), { readOnly: true });
    return openImage(vpc, file, { backing, log: (sentence) => said.push(sentence) });
  }

  test('is brought up to date by a close that leaves no block, as after a commit, and by no other', () => {
    const file = createMemoryImage(vpc, 64 * 1024, { block_size: '4k' });
    const { backing, facts } = target('base.raw', 'raw');
    vpc.setBacking!(file, backing, { ...facts!, modifiedMs: now });
    expect(session(file, now, (image) => image.write(new Uint8Array(512), 0, 512, guestOffset(0)))).toEqual([]);
    expect(session(file, now + DAY_MS, () => undefined)).toEqual([expect.stringMatching(/was changed, or copied/)]);
    expect(session(file, now + DAY_MS, (image) => image.deallocate!(guestOffset(0), 64 * 1024))).toHaveLength(1);
    expect(session(file, now + DAY_MS, () => undefined)).toEqual([]);
    expect(findings(file)).toEqual({ corruptions: 0, said: [] });
  });

  test('stays as it is where there is none', () => {
    const file = new MemoryHostFile(vhdImage({ ...CHILD, sectors: [], size: 64 * 1024, locators: LOCATORS }).image);
    const before = Buffer.from(file.bytes());
    expect(session(file, now, () => undefined)).toEqual([]);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });
});
