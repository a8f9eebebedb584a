// setBacking(): the header names another backing file, and nothing else changes. A power cut at any moment leaves the old name with
// the old format or the new name with the new format.

import { describe, expect, test } from 'vitest';
import { hostOffset } from '../../../src/bytes/offsets.ts';
import type { BackingReference, CheckedFormat, ParentFacts } from '../../../src/format/image-format.ts';
import { serializeHeader } from '../../../src/format/qcow2/header/header.ts';
import { readHeader } from '../../../src/format/qcow2/header/read-header.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { vdi } from '../../../src/format/vdi/index.ts';
import { distinctCrashStates } from '../../support/crash-states.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { checkImage } from '../../support/memory-images.ts';
import { seededRandom } from '../../support/random.ts';
import { type RecordedOperation, RecordingHostFile } from '../../support/wrapping-files.ts';

const NO_STATE = '12345678-0000-4000-8000-000000000000';
const REFERENCES: readonly (BackingReference | null)[] = [
  null,
  { name: 'base', format: 'raw' },
  { name: 'another.qcow2', format: 'qcow2' },
  { name: `/${'deep/'.repeat(60)}base.raw`, format: 'raw' },
  { name: `/${'long/'.repeat(190)}b`, format: 'qed' },
];

/** QCOW2 as QEMU leaves it (its feature names end beyond the first sector), as it is made here, and with little room. */
const KINDS: readonly [name: string, format: CheckedFormat, options: Readonly<Record<string, string>>][] = [
  ['qcow2', qcow2, {}],
  ['qcow2 with clusters of 512 bytes', qcow2, { cluster_size: '512' }],
  ['qcow2 with clusters of 1 KiB', qcow2, { cluster_size: '1k' }],
  ['qcow2 with clusters of 2 KiB', qcow2, { cluster_size: '2k' }],
  ['qcow2 version 2', qcow2, { compat: '0.10' }],
  ['QED', qed, {}],
  ['QED with clusters of 4 KiB', qed, { cluster_size: '4k' }],
];

function make(
  format: CheckedFormat,
  options: Readonly<Record<string, string>>,
  backing: BackingReference | null,
): MemoryHostFile {
  const file = new MemoryHostFile();
  format.create(file, {
    size: 1024 * 1024,
    options: new Map(Object.entries(options)),
    ...(backing === null ? {} : { backing }),
  });
  return file;
}

/** What the header says; QED knows raw, and for all else nothing. */
function referenceOf(format: CheckedFormat, file: MemoryHostFile): string {
  const { backing } = format.inspect(file);
  return JSON.stringify(backing ?? null);
}

function expected(format: CheckedFormat, backing: BackingReference | null): string {
  if (backing === null) return 'null';
  const { name, format: own } = backing;
  return JSON.stringify(format === qed && own !== 'raw' ? { name } : { name, format: own });
}

/** All that is no backing reference. */
function rest(format: CheckedFormat, file: MemoryHostFile): string {
  const { backing: _, ...details } = format.inspect(file);
  return JSON.stringify(details);
}

describe.each(KINDS)('%s', (_, format, options) => {
  test('has the old reference or the new one, whenever the power goes', () => {
    const random = seededRandom(1);
    let changes = 0;
    let refusals = 0;
    for (const from of REFERENCES) {
      let start: MemoryHostFile;
      try {
        start = make(format, options, from);
      } catch {
        // no room for the name at all
        continue;
      }
      for (const to of REFERENCES) {
        const log: RecordedOperation[] = [];
        try {
          format.setBacking!(new RecordingHostFile(start.clone(), log), to);
        } catch (error) {
          expect((error as Error).message).toMatch(/no room|at most/);
          expect(log).toEqual([]);
          refusals++;
          continue;
        }
        changes++;
        const allowed = [expected(format, from), expected(format, to)];
        const found = new Set<string>();
        for (const { moment, state, subset } of distinctCrashStates(start, log, random)) {
          const reference = referenceOf(format, state);
          found.add(reference);
          expect(allowed, `moment ${moment}, ${subset}`).toContain(reference);
          expect(rest(format, state)).toBe(rest(format, start));
        }
        expect(found).toContain(expected(format, to));
      }
    }
    expect(changes).toBeGreaterThan(options['cluster_size'] === '512' ? 5 : 15);
    if (options['cluster_size'] === '4k' || options['cluster_size'] === undefined) expect(refusals).toBe(0);
  });

  test('can be changed over and over, and the check finds nothing', () => {
    const file = make(format, options, null);
    const short = REFERENCES.filter((each) => each === null || each.name.length < 100);
    for (let round = 0; round < 30; round++) {
      const to = short[(round * 2 + 1) % short.length]!;
      format.setBacking!(file, to);
      expect(referenceOf(format, file)).toBe(expected(format, to));
    }
    const { corruptions, leaks } = checkImage(format, file, { repair: 'none', log: () => undefined });
    expect({ corruptions, leaks }).toEqual({ corruptions: 0, leaks: 0 });
  });
});

test('extensions of any kind and unknown header fields survive, also where they have to move', () => {
  const file = make(qcow2, {}, { name: 'base', format: 'raw' });
  const header = readHeader(file, { readOnly: true });
  const unknown = { type: 0x12345678, data: new Uint8Array(700).fill(9), offset: 0 };
  const bytes = serializeHeader({ ...header, extensions: [unknown, ...header.extensions] });
  file.write(bytes, 0, bytes.length, hostOffset(0));
  for (const to of [{ name: 'other', format: 'qcow2' }, null, { name: 'x'.repeat(1000), format: 'raw' }]) {
    const before = readHeader(file, { readOnly: true });
    const log: RecordedOperation[] = [];
    const start = file.clone();
    qcow2.setBacking!(new RecordingHostFile(file, log), to);
    const after = readHeader(file, { readOnly: true });
    expect(after.backingName).toBe(to?.name ?? null);
    expect(after.backingFormat).toBe(to?.format ?? null);
    expect(after.headerLength).toBe(before.headerLength);
    expect(after.extensions.find(({ type }) => type === 0x12345678)?.data).toEqual(unknown.data);
    expect(after.extensions.length).toBe(to === null ? before.extensions.length - 1 : header.extensions.length + 1);
    for (const { state } of distinctCrashStates(start, log, seededRandom(2))) {
      const { backingFormat, backingName, extensions } = readHeader(state, { readOnly: true });
      const is = (name: string | null, format: string | null): boolean =>
        backingName === name && backingFormat === format;
      expect(is(before.backingName, before.backingFormat) || is(to?.name ?? null, to?.format ?? null)).toBe(true);
      expect(extensions.find(({ type }) => type === 0x12345678)?.data).toEqual(unknown.data);
    }
  }
});

test('VDI has the old parent or the new one, whenever the power goes, and is another image for its children', () => {
  const wanted = ['a', 'b'].map((digit) => `${digit.repeat(8)}-0000-4000-8000-000000000000 ${NO_STATE}`);
  const facts = (n: number): ParentFacts => ({
    ...{ path: `/${n}.vdi`, format: 'vdi', virtualSize: 0, modifiedMs: null },
    identity: wanted[n]!,
  });
  const file = new MemoryHostFile();
  vdi.create(file, { size: 1024 * 1024, options: new Map(), backing: { name: '0' }, parent: facts(0) });
  const known = (of: MemoryHostFile) => vdi.inspect(of).backing?.identity?.values[0] ?? 'none';
  for (const [to, name] of [
    [1, wanted[1]],
    [null, 'none'],
    [0, wanted[0]],
  ] as const) {
    const start = file.clone();
    const log: RecordedOperation[] = [];
    if (to === null) vdi.setBacking!(new RecordingHostFile(file, log), null);
    else vdi.setBacking!(new RecordingHostFile(file, log), { name: `${to}` }, facts(to));
    expect(known(file)).toBe(name);
    expect(vdi.inspect(file).identity).not.toBe(vdi.inspect(start).identity);
    expect(log.map(({ operation }) => operation)).toEqual(['write', 'sync']);
    for (const { state } of distinctCrashStates(start, log, seededRandom(3))) {
      expect([known(start), name]).toContain(known(state));
      // type and UUIDs go together, or the header would be refused
      checkImage(vdi, state, { repair: 'none', log: () => undefined });
    }
  }
});

test('a name that is too long, or has no room, is refused, and no byte changes', () => {
  const long = make(qcow2, {}, null);
  const before = Buffer.from(long.bytes());
  expect(() => qcow2.setBacking!(long, { name: 'x'.repeat(1024), format: 'raw' })).toThrow(/1024 bytes.*at most 1023/);
  expect(Buffer.compare(long.bytes(), before)).toBe(0);
  const small = make(qcow2, { cluster_size: '512' }, null);
  expect(() => qcow2.setBacking!(small, { name: 'x'.repeat(400), format: 'raw' })).toThrow(/no room in its header/);
  const tiny = make(qed, { cluster_size: '4k' }, { name: 'y'.repeat(2000) });
  expect(() => qed.setBacking!(tiny, { name: 'x'.repeat(3000) })).toThrow(/no room in its header/);
  expect(qed.inspect(tiny).backing?.name).toBe('y'.repeat(2000));
});
