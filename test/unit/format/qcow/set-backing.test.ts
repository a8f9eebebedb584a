// setBacking() of qcow images: whenever the power goes, the header has the old name or the new one, and the check finds a leak at worst.

import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { qcow } from '../../../../src/format/qcow/index.ts';
import { distinctCrashStates } from '../../../support/crash-states.ts';
import type { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, factsOfParent, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const SIZE = 256 * 1024;
const NAMES = [null, 'b', 'another.qcow', `/${'deep/'.repeat(60)}base`, `/${'long/'.repeat(190)}b`];
const backing = openImage(qcow, createMemoryImage(qcow, SIZE), { readOnly: true });

function nameOf(file: MemoryHostFile): string | null {
  return qcow.inspect(file).backing?.name ?? null;
}

function rename(file: MemoryHostFile | RecordingHostFile, name: string | null): string[] {
  const said: string[] = [];
  const reference = name === null ? null : { name, format: 'qcow' };
  qcow.setBacking!(file, reference, undefined, (sentence) => said.push(sentence));
  return said;
}

/** With data behind the tables, and closed clean. */
function make(name: string | null): MemoryHostFile {
  const file = createMemoryImage(qcow, SIZE, {}, name ?? undefined);
  const image = openImage(qcow, file, { backing });
  image.write(new Uint8Array(5000).fill(7), 0, 5000, guestOffset(100_000));
  image.close();
  return file;
}

function byteIn(file: MemoryHostFile): number {
  const bytes = new Uint8Array(1);
  openImage(qcow, file, { backing, readOnly: true }).read(bytes, 0, 1, guestOffset(100_100));
  return bytes[0]!;
}

test('the name is the old one or the new one, whenever the power goes', () => {
  const random = seededRandom(1);
  for (const from of NAMES) {
    const start = make(from);
    for (const to of NAMES) {
      const log: RecordedOperation[] = [];
      const end = start.clone();
      rename(new RecordingHostFile(end, log), to);
      expect(nameOf(end)).toBe(to);
      for (const { moment, state, subset } of distinctCrashStates(start, log, random)) {
        expect([from, to], `moment ${moment}, ${subset}`).toContain(nameOf(state));
        const { corruptions, checkErrors } = checkImage(qcow, state, { repair: 'none', log: () => undefined });
        expect([corruptions, checkErrors, byteIn(state)]).toEqual([0, 0, 7]);
      }
    }
  }
});

test('names change over and over between writes, and nothing leaks', () => {
  const file = make('b');
  for (let round = 0; round < 40; round++) {
    const name = NAMES[(round * 3 + 1) % NAMES.length]!;
    rename(file, name);
    expect(checkImage(qcow, file, { repair: 'none', log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
    const image = openImage(qcow, file, { backing });
    image.write(new Uint8Array(700).fill(round), 0, 700, guestOffset(round * 5000));
    image.close();
    expect(nameOf(file)).toBe(name);
    expect(checkImage(qcow, file, { repair: 'none', log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
  }
  expect(file.size()).toBeLessThan(120 * 1024);
});

test('a name that lies in data of the guest, in a damaged image, is not cleared', () => {
  const file = make('b');
  const data = openImage(qcow, file, { backing, readOnly: true }).map(guestOffset(100_100), 1).hostOffset!;
  const field = Buffer.alloc(12);
  field.writeBigUInt64BE(BigInt(data));
  field.writeUInt32BE(3, 8);
  file.write(field, 0, 12, hostOffset(8));
  rename(file, 'c');
  expect([nameOf(file), byteIn(file)]).toEqual(['c', 7]);
});

test('what cannot be named is refused, and no byte changes', () => {
  const file = make('b');
  const before = file.bytes();
  const name =
    (of: string, format = 'qcow', path?: string) =>
    () =>
      qcow.setBacking!(file, { name: of, format }, path === undefined ? undefined : factsOfParent(path, SIZE));
  expect(name('x'.repeat(1024))).toThrow(/1024 bytes; a qcow image holds at most 1023/);
  expect(name('base.raw', 'raw')).toThrow(/stores no format/);
  expect(file.bytes()).toEqual(before);
  name('base.raw', 'raw', '/there/base.raw')();
  expect(nameOf(file)).toBe('json:{"driver":"raw","file":{"driver":"file","filename":"/there/base.raw"}}');
});

test('large clusters over a backing file are warned of, because of QEMU', () => {
  expect(rename(make(null), 'b')).toEqual([
    expect.stringMatching(/clusters of 4096 bytes, and QEMU writes zeros around/),
  ]);
  expect(rename(make('b'), 'c')).toEqual([]);
});
