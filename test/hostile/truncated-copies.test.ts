// Copies that end too early, of every format with tables: a read gives the right bytes or an error, but for the cluster that the
// file ends in, whose end reads as zeros; whoever opens such a copy read-only is told. A whole image tells nothing.

import { readFileSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk } from '../../src/disk/index.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { EVERY_KIND } from '../support/every-kind.ts';
import { withDisk } from '../support/image-files.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const SIZE = 1024 * 1024;
const PIECE = 4096;
const CONTENT = Buffer.from(Array.from({ length: SIZE }, (_, i) => 1 + ((i >> 9) % 255)));

const IMAGES = [
  ['vdi', {}],
  ['vpc', {}],
  ['vhdx', {}],
  ['vmdk', {}],
  ['parallels', {}],
  ['qcow', {}],
  ['qcow2', {}],
  ['qed', {}],
] as const;

let folder: string;
let image: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.img');
});
afterEach(() => removeTemporaryDirectory(folder));

/** What an open says, and what each piece of the disk reads as. */
function look(): { readonly said: string[]; readonly pieces: ('right' | 'wrong' | 'error')[] } {
  const said: string[] = [];
  const pieces: ('right' | 'wrong' | 'error')[] = [];
  withDisk(image, { readOnly: true, log: (sentence) => void said.push(sentence) }, (disk) => {
    const bytes = Buffer.alloc(PIECE);
    for (let at = 0; at < SIZE; at += PIECE) {
      try {
        disk.read(bytes, 0, PIECE, guestOffset(at));
        pieces.push(bytes.equals(CONTENT.subarray(at, at + PIECE)) ? 'right' : 'wrong');
      } catch (error) {
        expect(error).toBeInstanceOf(ImgfuseError);
        pieces.push('error');
      }
    }
  });
  return { said, pieces };
}

describe.each(IMAGES)('of a %s image', (format, options) => {
  beforeEach(() => {
    createDisk(image, format, { size: SIZE, options: new Map(Object.entries(options)) });
    // the tables come first in the file, so that a copy still has them
    for (const [at, length] of [
      [0, PIECE],
      [PIECE, SIZE - PIECE],
    ] as const) {
      withDisk(image, { readOnly: false }, (disk) => disk.write(CONTENT, at, length, guestOffset(at)));
    }
  });

  test('a whole one says nothing', () => {
    const { said, pieces } = look();
    expect(said).toEqual([]);
    expect(new Set(pieces)).toEqual(new Set(['right']));
  });

  test.each([0.5, 0.75, 0.97])('one with %d of its data says so', (part) => {
    const length = readFileSync(image).length;
    const start = readFileSync(image).indexOf(CONTENT.subarray(0, 512));
    truncateSync(image, start + Math.floor((SIZE * part) / 512) * 512 + 512);
    expect(readFileSync(image).length).toBeLessThan(length);
    const { said, pieces } = look();
    expect(said).toHaveLength(1);
    expect(said[0]).toMatch(/is truncated|footer at the end is missing/);
    expect(pieces.some((piece) => piece !== 'right')).toBe(true);
  });
});

test.each([
  ['parallels, a directory', 'root.hds', 0.6],
  // its last list of bands is not far from the end
  ['sparseimage', '', 0.99],
  ['asif', '', 0.6],
])('of %s, whose pieces lie anywhere, one that has lost whole pieces says so', (name, part, kept) => {
  const { image: made } = EVERY_KIND.find((kind) => kind.name === name)!.make(folder);
  const said: string[] = [];
  const open = (): void =>
    withDisk(made, { readOnly: true, log: (sentence) => void said.push(sentence) }, () => undefined);
  open();
  expect(said).toEqual([]);
  const file = join(made, part);
  truncateSync(file, Math.floor(statSync(file).size * kept));
  open();
  expect(said).toEqual([
    expect.stringMatching(/^.*(root\.hds|disk\.img) is truncated: .* clusters after it are errors$/),
  ]);
});
