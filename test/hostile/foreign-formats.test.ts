// Images in formats that are not opened here. Each is refused by its name wherever a format is guessed, and no byte of it
// changes; it is a raw disk only for whoever says so. A guest cannot turn a guessed raw disk into one either.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { attachDisk, checkDisk, createDisk, inspectDisk, openDisk, reopenDisk } from '../../src/disk/index.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { FOREIGN_FORMATS } from '../../src/format/foreign.ts';
import { FOREIGN_FILES, FOREIGN_MAGICS, fixedVhd, withBytes } from '../support/foreign-files.ts';
import { fingerprints, readAll, withDisk } from '../support/image-files.ts';
import { writeQed } from '../support/qed-bytes.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const NO_OPTIONS = new Map<string, string>();

let folder: string;
let image: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.img');
});
afterEach(() => removeTemporaryDirectory(folder));

/** "kind: sentence" of what an action throws; it has changed no file. */
function refusalOf(action: () => unknown): string {
  const before = fingerprints(folder);
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  expect(fingerprints(folder)).toEqual(before);
  return `${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`;
}

test('every format of the table has a file here, and every file is of a format of the table', () => {
  const isCovered = (format: { readonly title: string }): boolean =>
    FOREIGN_FILES.some(({ name }) => format.title.includes(name));
  expect(FOREIGN_FORMATS.filter((format) => !isCovered(format))).toEqual([]);
  const magics = FOREIGN_FORMATS.flatMap((format) => format.magics);
  const isTested = (magic: { readonly at: number; readonly text: string }): boolean =>
    FOREIGN_MAGICS.some(([, , at, bytes]) => at === magic.at && bytes.startsWith(magic.text));
  expect(magics.filter((magic) => !isTested(magic))).toEqual([]);
});

describe.each(FOREIGN_FILES)('$name, known by $what,', ({ name, content }) => {
  beforeEach(() => writeFileSync(image, content));

  test('is refused by its name by whatever guesses, and the sentence says what to do', () => {
    const actions = [
      () => openDisk(image, { readOnly: true }).close(),
      () => openDisk(image, { readOnly: false }).close(),
      () => inspectDisk(image),
      () => checkDisk(image, { repair: 'none', log: () => undefined }),
      () => checkDisk(image, { repair: 'all', log: () => undefined }),
    ];
    for (const action of actions) {
      const message = refusalOf(action);
      expect(message).toMatch(/^unsupported: /);
      expect(message).toContain(image);
      expect(message).toContain(name);
      expect(message).toMatch(/convert it|unlock it/);
      expect(message).toContain('--format raw');
    }
  });

  test('is refused as a backing file of a format that the overlay does not say', () => {
    writeQed(join(folder, 'overlay.qed'), { backing: 'disk.img' });
    const message = refusalOf(() => openDisk(join(folder, 'overlay.qed'), { readOnly: true }).close());
    expect(message).toContain(`unsupported: ${image} is `);
    expect(message).toContain(name);
    expect(message).toContain('imgfuse rebase -u -F raw -b disk.img');
  });

  test.each(['qcow2', 'qed'])('is refused as a backing file that -F calls %s', (backingFormat) => {
    const options = { options: NO_OPTIONS, backing: 'disk.img', backingFormat };
    const message = refusalOf(() => createDisk(join(folder, 'overlay.qcow2'), 'qcow2', options));
    expect(message).toContain(`unsupported: ${image} is `);
    expect(message).toMatch(/or add -F raw if/);
  });

  test('is a raw disk as it is for whoever says raw, with a warning', () => {
    const warnings: string[] = [];
    const log = (sentence: string): void => void warnings.push(sentence);
    withDisk(image, { readOnly: false, format: 'raw', log }, (disk) => expect(readAll(disk)).toEqual(content));
    expect(inspectDisk(image, { format: 'raw', log }).virtualSize).toBe(content.length);
    expect(warnings).toHaveLength(2);
    for (const warning of warnings) expect(warning).toMatch(new RegExp(`${image} is .*${name}.*--format raw`));
    const overlay = join(folder, 'overlay.qcow2');
    createDisk(overlay, 'qcow2', { options: NO_OPTIONS, backing: 'disk.img', backingFormat: 'raw', log });
    expect(warnings.at(-1)).toMatch(new RegExp(`${image} is .*${name}.*; -F raw makes its own bytes the disk$`));
    withDisk(overlay, { readOnly: true }, (disk) => expect(readAll(disk)).toEqual(content));
  });
});

test('an image of a format that is opened here is shown raw with a warning, too', () => {
  createDisk(image, 'qcow2', { size: 65_536, options: NO_OPTIONS });
  const warnings: string[] = [];
  openDisk(image, { readOnly: true, format: 'raw', log: (sentence) => warnings.push(sentence) }).close();
  expect(warnings).toEqual([expect.stringContaining(`${image} is a qcow2 image; --format raw`)]);
});

test.each([
  ['in the middle of a disk', 1024],
  ['one byte behind its place', 1],
  ['one byte before the place of a trailer', -513],
])('a magic %s makes no image', (_, at) => {
  const content = withBytes(at, at < 0 ? 'conectix' : 'vhdxfile');
  writeFileSync(image, content);
  withDisk(image, { readOnly: true }, (disk) => expect(readAll(disk)).toEqual(content));
});

describe('a fixed VHD', () => {
  const head = withBytes(0, 'QFI\xfb\0\0\0\x03');

  test.each([
    512, 511,
  ])('whose guest makes its head another image is not guessed, and both can be said (footer of %i bytes)', (bytes) => {
    writeFileSync(image, fixedVhd(head, bytes));
    const sentence = refusalOf(() => openDisk(image, { readOnly: true }));
    expect(sentence).toMatch(/ends like a VHD image and begins like a qcow2 image.*--format vpc or --format qcow2/);
    withDisk(image, { readOnly: true, format: 'vhd' }, (disk) => expect(readAll(disk)).toEqual(head));
  });

  test('whose guest makes its head an image of a format that is not opened is not guessed either', () => {
    writeFileSync(image, fixedVhd(withBytes(0, 'encrcdsa')));
    expect(refusalOf(() => openDisk(image, { readOnly: true }))).toMatch(
      /begins like an encrypted dmg image.*add --format vpc, or add/,
    );
  });

  test.each(['LUKS\xba\xbe', 'conectix'])('whose guest begins its disk with %j is one', (magic) => {
    const disk = withBytes(0, magic);
    writeFileSync(image, fixedVhd(disk));
    withDisk(image, { readOnly: true }, (opened) => expect(readAll(opened)).toEqual(disk));
  });

  test.each([
    ['checksum', 64],
    ['size', 55],
    ['type', 63],
  ])('whose %s is wrong does not stand in the way of the image at the head', (_, at) => {
    const content = fixedVhd(head);
    const footer = content.length - 512;
    content[footer + at]! ^= 1;
    writeFileSync(image, content);
    expect(refusalOf(() => openDisk(image, { readOnly: true }))).toMatch(/qcow2 header/);
  });

  test('of which somebody says that it is qcow2 is opened as that', () => {
    writeFileSync(image, fixedVhd(head));
    expect(refusalOf(() => openDisk(image, { readOnly: true, format: 'qcow2' }))).toMatch(/qcow2 header/);
  });
});

describe('a raw disk that was guessed', () => {
  const content = Buffer.alloc(16 * 512);
  beforeEach(() => writeFileSync(image, content));

  test.each(FOREIGN_MAGICS)('does not become %s: %s', (name, _, at, bytes) => {
    const place = at < 0 ? content.length + at : at;
    withDisk(image, { readOnly: false, slots: 2 }, (disk) => {
      const other = attachDisk(structuredClone(disk.share()), 1);
      for (const writer of [disk, other]) {
        const message = refusalOf(() =>
          writer.write(Buffer.from(bytes, 'latin1'), 0, bytes.length, guestOffset(place)),
        );
        expect(message).toMatch(/^permission: .*guessed to be a raw image/);
        expect(message).toContain(name);
        // the rest alone would make it
        writer.write(Buffer.from(bytes, 'latin1'), 0, 2, guestOffset(place));
        const rest = () => writer.write(Buffer.from(bytes, 'latin1'), 2, bytes.length - 2, guestOffset(place + 2));
        expect(refusalOf(rest)).toMatch(/^permission: /);
        writer.writeZeroes(place, 2);
      }
    });
    withDisk(image, { readOnly: false, format: 'raw' }, (disk) => {
      disk.write(Buffer.from(bytes, 'latin1'), 0, bytes.length, guestOffset(place));
    });
    expect(refusalOf(() => openDisk(image, { readOnly: true }))).toContain(name);
  });

  test('does not become QED or qcow by zeros', () => {
    withDisk(image, { readOnly: false }, (disk) => {
      disk.write(Buffer.from('QEDx'), 0, 4, guestOffset(0));
      expect(refusalOf(() => disk.writeZeroes(3, 1))).toMatch(/^permission: .* a QED image/);
      expect(refusalOf(() => disk.discard(3, 1))).toMatch(/^permission: .* a QED image/);
      disk.writeZeroes(2, 2);
    });
    openDisk(image, { readOnly: true }).close();
  });

  test.each([0, -512, -511])('does not become VHD by the magic at %i', (at) => {
    withDisk(image, { readOnly: false }, (disk) => {
      const place = guestOffset(at < 0 ? content.length + at : at);
      expect(refusalOf(() => disk.write(Buffer.from('conectix'), 0, 8, place))).toMatch(/^permission: .* a VHD image/);
    });
  });

  test('does not become VHD by a change of its size that makes its footer the end', () => {
    withDisk(image, { readOnly: false }, (disk) => {
      disk.write(Buffer.from('conectix'), 0, 8, guestOffset(1024));
      expect(refusalOf(() => disk.resize(1536))).toMatch(/^permission: .* a VHD image/);
      disk.resize(1024);
    });
    openDisk(image, { readOnly: true }).close();
  });

  test('that another program made an encrypted image meanwhile is not opened anew', () => {
    withDisk(image, { readOnly: true, locks: 'share' }, (disk) => {
      writeFileSync(image, withBytes(0, 'encrcdsa'));
      expect(refusalOf(() => reopenDisk(disk, { readOnly: false }))).toMatch(/is an encrypted dmg image/);
    });
  });
});
