// A file with the magic of a format that is opened here is never shown as raw, however little of it is an image: by whatever opens
// it, as a backing file, and over HTTP. Each magic of each plug is a case; the images of foreign-formats.test.ts are those that are not
// opened.

import { mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checkDisk, createDisk, formats, inspectDisk, openDisk } from '../../src/disk/index.ts';
import { recognizedName } from '../../src/disk/probe.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { endsOf, type Magic } from '../../src/format/file-ends.ts';
import { withBytes } from '../support/foreign-files.ts';
import { fingerprints, firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { keepNetworkThread } from '../support/kept-network.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { CLUSTER, writeQed } from '../support/qed-bytes.ts';
import { RangeServer } from '../support/range-server.ts';
import { READ_ONLY_IMAGES, writeReadOnlyImage } from '../support/read-only-images.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

/** What a plug looks for beside a magic that others share: [format, magic, more bytes, their place]. */
const MORE: readonly (readonly [format: string, magic: string, bytes: string, at: number])[] = [
  ['qcow', 'QFI\xfb', '\0\0\0\x01', 4],
  ['vmdk', '#', ' made by hand\r\n\nversion=1\r\n', 1],
  ['vmdk', 'version=', '3\n', 8],
  ['parallels', '<?xml', '<Parallels_disk_image', 40],
  ['parallels', '\xef\xbb\xbf<', '<Parallels_disk_image', 40],
  ...['<?xml', '\xef\xbb\xbf<', '<!DOCTYPE plist', '<plist'].map(
    (magic) => ['sparsebundle', magic, '<key>band-size</key>', 40] as const,
  ),
  ['cloop', '#!/bin/sh\n#V', '3.1 Format', 12],
];

function bytesWith(format: string, { at, text }: Magic): Buffer {
  const content = withBytes(at, text);
  for (const [name, magic, bytes, place] of MORE) {
    if (name === format && magic === text) content.write(bytes, place, 'latin1');
  }
  return content;
}

const CASES = formats.flatMap(({ magics, name, title }) =>
  magics.map((magic) => [name, title, JSON.stringify(magic.text), magic.at, bytesWith(name, magic)] as const),
);

let server: RangeServer;
let served = 0;
keepNetworkThread();
beforeAll(() => {
  server = new RangeServer(Buffer.alloc(512));
});
afterAll(() => server.close());

/** A place on the server with this content. */
function serve(content: Uint8Array): string {
  server.replace(content);
  return `${server.origin}/${served++}`;
}

let folder: string;
let image: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.img');
});
afterEach(() => removeTemporaryDirectory(folder));

/** The format that an action says, or the kind of error that it refuses the file with; no file has changed. */
function outcome(action: () => string): string {
  const before = fingerprints(folder);
  try {
    return action();
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    return `refused as ${error.kind}: ${error.message}`;
  } finally {
    expect(fingerprints(folder)).toEqual(before);
  }
}

function formatOpened(path: string, allowBacking: readonly string[] = []): string {
  const disk = openDisk(path, { readOnly: true, allowBacking });
  try {
    return disk.format;
  } finally {
    disk.close();
  }
}

test('every format but raw has a case', () => {
  const names = new Set(CASES.map(([name]) => name));
  expect([...names].sort()).toEqual(formats.flatMap(({ name }) => (name === 'raw' ? [] : [name])).sort());
});

describe.each(CASES)('a file of %s (%s) with no more than its magic %s at %i', (format, title, _, _at, content) => {
  beforeEach(() => writeFileSync(image, content));

  test('is taken for one', () => {
    expect(recognizedName(endsOf(new MemoryHostFile(content)))).toBe(title);
  });

  test('is never a raw disk, whatever opens it', () => {
    const outcomes = [
      outcome(() => formatOpened(image)),
      outcome(() => {
        openDisk(image, { readOnly: false }).close();
        return 'opened for writing';
      }),
      outcome(() => inspectDisk(image).format),
      outcome(() => `${checkDisk(image, { repair: 'none', log: () => undefined }).corruptions} corruptions`),
    ];
    for (const each of outcomes) expect(each).toMatch(new RegExp(`^(${format}$|refused as|[1-9]\\d* corruptions)`));
  });

  test('is never a raw disk below an overlay that does not say its format, also over HTTP', () => {
    const overlay = join(folder, 'overlay.qed');
    const isNotRaw = /^(qed$|refused as )/;
    writeQed(overlay, { backing: 'disk.img' });
    const local = outcome(() => formatOpened(overlay));
    expect(local).toMatch(isNotRaw);
    expect(local).not.toMatch(/raw is never guessed/);
    const url = serve(content);
    writeQed(overlay, { backing: url });
    const remote = outcome(() => formatOpened(overlay, [url]));
    expect(remote).toMatch(isNotRaw);
    expect(remote).not.toMatch(/raw is never guessed/);
    for (const open of [() => formatOpened(url), () => inspectDisk(url).format])
      expect(outcome(open)).toMatch(new RegExp(`^(${format}$|refused as )`));
  });

  test('does not become one by the writes of a guest of a guessed raw disk', () => {
    const zeros = Buffer.alloc(content.length);
    writeFileSync(image, zeros);
    withDisk(image, { readOnly: false }, (disk) => {
      expect(() => disk.write(content, 0, content.length, 0 as never)).toThrow(/guessed to be a raw image/);
      expect(firstDifference(readAll(disk), zeros)).toBe('none');
    });
  });
});

/** What is said when the files are opened, by the name of each. */
function saidOf(names: readonly string[], format?: string): Record<string, string[]> {
  const said: Record<string, string[]> = {};
  for (const name of names) {
    const path = join(folder, name);
    writeFileSync(path, Buffer.alloc(4096));
    said[name] = [];
    const log = (sentence: string): void => void said[name]!.push(sentence.replace(`${path} `, ''));
    expect(inspectDisk(path, { format, log }).format).toBe('raw');
    openDisk(path, { readOnly: false, format, log }).close();
  }
  return said;
}

test('a raw disk with the name of another format is spoken of, for it may be a damaged image', () => {
  const names = ['a.vhd', 'a.VHDX', 'a.avhdx', 'a.vdi', 'a.vmdk', 'a-s001.vmdk', 'a.qcow2', 'a.qcow', 'a.qed', 'a.hdd'];
  for (const [name, said] of Object.entries(saidOf(names))) {
    expect(said, name).toEqual([
      expect.stringMatching(/^is named like an? .*no known format.* compare it with a copy, or add --format raw/),
      expect.stringMatching(/compare it with a copy before you write to it, or add --format raw/),
    ]);
  }
});

test('nothing is said of a raw disk that may have its name, or whose format is given', () => {
  const names = ['a.img', 'a.raw', 'vhd', 'a.vhd.img', 'a-flat.vmdk', 'a-f001.vmdk', 'a.hds', 'a.dmg'];
  expect(Object.values(saidOf(names)).flat()).toEqual([]);
  expect(Object.values(saidOf(['a.vhd', 'a.vmdk'], 'raw')).flat()).toEqual([]);
});

test('a fixed VHD that lost its footer is spoken of', () => {
  const path = join(folder, 'a.vhd');
  createDisk(path, 'vpc', { size: 1024 * 1024, options: new Map([['subformat', 'fixed']]) });
  truncateSync(path, statSync(path).size - 512);
  const said: string[] = [];
  expect(inspectDisk(path, { log: (sentence) => void said.push(sentence) }).format).toBe('raw');
  expect(said).toEqual([expect.stringContaining('is named like a VHD image')]);
});

/** An image of the format at the path. @returns whether it is one file that any place can hold */
function makeImage(format: string, path: string): boolean {
  const made = READ_ONLY_IMAGES[format]?.();
  if (made === undefined) createDisk(path, format, { size: 1024 * 1024, options: new Map() });
  else writeReadOnlyImage(path, made);
  return made === undefined || !('bands' in made);
}

test.each(
  formats.flatMap(({ name }) => (name === 'raw' ? [] : [name])),
)('an image of %s is one everywhere: by its name, below an overlay, over HTTP', (format) => {
  const place = join(folder, 'place');
  mkdirSync(place);
  const path = join(place, 'disk');
  const isOneFile = makeImage(format, path);
  expect([formatOpened(path), inspectDisk(path).format]).toEqual([format, format]);
  const content = withDisk(path, { readOnly: true }, readAll);
  const overlay = join(folder, 'overlay.qed');
  const shown = Math.min(content.length, 8 * CLUSTER);
  const make = (backing: string): void =>
    writeQed(overlay, { backing, empty: true, fields: { imageSize: BigInt(8 * CLUSTER) } });
  const below = (allowBacking: readonly string[]): string =>
    withDisk(overlay, { readOnly: true, allowBacking }, (disk) =>
      firstDifference(readAll(disk).subarray(0, shown), content.subarray(0, shown)),
    );
  make('place/disk');
  expect(below([])).toBe('none');
  if (!isOneFile) return;
  const url = serve(readFileSync(path));
  expect([formatOpened(url), inspectDisk(url).format]).toEqual([format, format]);
  make(url);
  expect(below([url])).toBe('none');
});
