// Parallels disks of several files: storages one behind the other, snapshots, and what a DiskDescriptor.xml must not say.

import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { attachDisk, checkDisk, inspectDisk, openDisk } from '../../../../src/disk/index.ts';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { fingerprints, firstDifference, readAll, withDisk } from '../../../support/image-files.ts';
import { parallelsImage } from '../../../support/piece-bytes.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../../support/temporary.ts';

const TOP = '{5fbaabe3-6958-40ff-92a7-860e329aab41}';
const BASE = '{11111111-2222-3333-4444-555555555555}';
const NULL_GUID = '{00000000-0000-0000-0000-000000000000}';
const SECTOR = 512;
/** Sectors of a cluster. */
const CLUSTER = 8;

let folder: string;
let descriptor: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  descriptor = join(folder, 'DiskDescriptor.xml');
});
afterEach(() => removeTemporaryDirectory(folder));

interface Storage {
  readonly start: number;
  readonly end: number;
  readonly images: readonly (readonly [guid: string, type: string, file: string])[];
}

function xml(storages: readonly Storage[], shots: readonly (readonly [string, string])[], more = ''): string {
  const images = (list: Storage['images']): string =>
    list
      .map(([guid, type, file]) => `<Image><GUID>${guid}</GUID><Type>${type}</Type><File>${file}</File></Image>`)
      .join('');
  const each = storages.map(
    ({ start, end, images: list }) =>
      `<Storage><Start>${start}</Start><End>${end}</End><Blocksize>${CLUSTER}</Blocksize>${images(list)}</Storage>`,
  );
  const snapshots = shots.map(
    ([guid, parent]) => `<Shot><GUID>${guid}</GUID><ParentGUID>${parent}</ParentGUID></Shot>`,
  );
  return (
    `<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version="1.0">\n<Disk_Parameters><Disk_size>1</Disk_size>` +
    `<Padding>0</Padding>${more}</Disk_Parameters>\n<StorageData>${each.join('\n')}</StorageData>\n` +
    `<Snapshots>${snapshots.join('')}</Snapshots></Parallels_disk_image>\n`
  );
}

/** An expanding file, one byte for each cluster; 0 is not stored. @returns those bytes as content */
function expanding(name: string, pieces: readonly number[], cluster = CLUSTER): Buffer {
  const { content, image } = parallelsImage({ pieces, clusterSectors: cluster, sectors: pieces.length * cluster });
  writeFileSync(join(folder, name), image);
  return content;
}

/** Three storages, the last one plain below, and a snapshot. @returns what the disk reads as */
function makeDisk(): Buffer {
  const old = [expanding('a.0.hds', [1, 0, 3, 4, 0, 6]), expanding('b.0.hds', [11, 0, 13], 2 * CLUSTER)];
  const plain = Buffer.alloc(5 * SECTOR, 'plain');
  writeFileSync(join(folder, 'c.0.hds'), plain);
  expanding('a.1.hds', [0, 22, 23, 0, 0, 0]);
  expanding('b.1.hds', [0, 0, 33], 2 * CLUSTER);
  expanding('c.1.hds', [0]);
  const wanted = Buffer.concat([...old, plain]);
  wanted.fill(22, CLUSTER * SECTOR, 2 * CLUSTER * SECTOR).fill(23, 2 * CLUSTER * SECTOR, 3 * CLUSTER * SECTOR);
  const b = old[0]!.length;
  wanted.fill(33, b + 4 * CLUSTER * SECTOR, b + 6 * CLUSTER * SECTOR);
  const [first, second] = [b / SECTOR, (b + old[1]!.length) / SECTOR];
  const files = (letter: string, type: string): Storage['images'] => [
    [TOP, 'Compressed', `${letter}.1.hds`],
    [BASE, type, `/Users/somebody/disk.hdd/${letter}.0.hds`],
  ];
  const storages = [
    { start: second, end: second + 5, images: files('c', 'Plain') },
    { start: 0, end: first, images: files('a', 'Compressed') },
    { start: first, end: second, images: files('b', 'Compressed') },
  ];
  writeFileSync(
    descriptor,
    xml(storages, [
      [BASE, NULL_GUID],
      [TOP, BASE],
    ]),
  );
  return wanted;
}

test('a disk of several files with a snapshot is read whole, by every thread, and no file of it changes', () => {
  const wanted = makeDisk();
  const before = fingerprints(folder);
  const log: string[] = [];
  withDisk(descriptor, { readOnly: true, slots: 2, log: (sentence) => log.push(sentence) }, (disk) => {
    expect(disk.format).toBe('parallels');
    expect(firstDifference(readAll(disk), wanted)).toBe('none');
    expect(firstDifference(readAll(attachDisk(structuredClone(disk.share()), 1)), wanted)).toBe('none');
    for (const { start, length, status, path, hostOffset } of disk.extents()) {
      const part = wanted.subarray(start, start + length);
      if (status !== 'data') expect(part.every((byte) => byte === 0)).toBe(true);
      else expect([path?.includes('hds'), typeof hostOffset]).toEqual([true, 'number']);
    }
  });
  expect(log).toEqual([]);
  expect(inspectDisk(descriptor)).toMatchObject({ format: 'parallels', virtualSize: wanted.length, dirty: false });
  expect(fingerprints(folder)).toEqual(before);
});

test('its files count for info: the space they take, one that is in use, and those that are gone', () => {
  makeDisk();
  const names = readdirSync(folder);
  const blocks = names.reduce((sum, name) => sum + statSync(join(folder, name)).blocks, 0);
  expect(inspectDisk(descriptor)).toMatchObject({ actualSize: blocks * SECTOR, dirty: false });
  const { image } = parallelsImage({ pieces: [0], clusterSectors: CLUSTER, inUse: 0x746f6e59, sectors: CLUSTER });
  writeFileSync(join(folder, 'c.1.hds'), image);
  expect(inspectDisk(descriptor)).toMatchObject({ dirty: true });
  rmSync(join(folder, 'c.1.hds'));
  for (const letter of ['a', 'b']) rmSync(join(folder, `${letter}.0.hds`));
  const log: string[] = [];
  expect(inspectDisk(descriptor, { log: (sentence) => log.push(sentence) })).toMatchObject({ dirty: false });
  expect(log).toEqual([
    expect.stringMatching(/\.hds of .* does not exist; .*; so it is with 2 other extents of .*DiskDescriptor\.xml$/),
  ]);
});

test('one of its files alone is read with a warning', () => {
  makeDisk();
  const log: string[] = [];
  openDisk(join(folder, 'a.1.hds'), { readOnly: true, log: (sentence) => log.push(sentence) }).close();
  expect(log).toEqual([expect.stringMatching(/is one file of a disk.*open the DiskDescriptor.xml instead/)]);
});

test('a disk without snapshots need not list any', () => {
  const wanted = expanding('only.hds', [1, 2, 0]);
  writeFileSync(descriptor, xml([{ start: 0, end: 24, images: [[TOP, 'Compressed', 'only.hds']] }], []));
  withDisk(descriptor, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), wanted)).toBe('none'));
});

test.each([
  ['without a declaration', (text: string) => text.replace(/^<\?xml.*\n/, '')],
  ['behind a byte-order mark', (text: string) => `\ufeff${text}`],
  ['behind a long comment', (text: string) => text.replace('?>\n', `?>\n<!--${'x'.repeat(900)}-->\n`)],
])('its descriptor is recognized %s', (_, change) => {
  const wanted = expanding('only.hds', [1, 2, 0]);
  writeFileSync(descriptor, change(xml([{ start: 0, end: 24, images: [[TOP, 'Compressed', 'only.hds']] }], [])));
  for (const name of [descriptor, folder]) {
    withDisk(name, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), wanted)).toBe('none'));
  }
});

test('it is never written to, and never taken for a raw disk', () => {
  makeDisk();
  const refusal = (action: () => unknown): string => {
    try {
      action();
    } catch (error) {
      return `${(error as ImgfuseError).kind}: ${(error as Error).message}`;
    }
    return 'nothing';
  };
  expect(refusal(() => openDisk(descriptor, { readOnly: false }))).toMatch(/^read-only: .*-o overlay=FILE/);
  expect(refusal(() => checkDisk(descriptor, { repair: 'none', log: () => undefined }))).toContain('check');
  const other = join(folder, 'other.xml');
  writeFileSync(other, `<?xml version="1.0"?><html/>${' '.repeat(1000)}`);
  expect(inspectDisk(other).format).toBe('raw');
});

describe('is refused', () => {
  const ONE = [{ start: 0, end: 24, images: [[TOP, 'Compressed', 'only.hds']] as const }];
  const SHOTS = [[TOP, NULL_GUID]] as const;
  test.each<[string, string, RegExp]>([
    ['padding', xml(ONE, SHOTS).replace('<Padding>0', '<Padding>1'), /^unsupported: .*has padding/],
    ['encryption', xml(ONE, SHOTS, '<Encryption><Engine>{1}</Engine></Encryption>'), /^unsupported: .*is encrypted/],
    [
      'another root',
      xml(ONE, SHOTS).replaceAll('Parallels_disk_image', 'Parallels_disk_images'),
      /^corrupt: .*<Parallels_disk_images>/,
    ],
    [
      'a document type with entities',
      xml(ONE, SHOTS).replace('?>\n', '?>\n<!DOCTYPE x [<!ENTITY a "b">]>'),
      /^corrupt: /,
    ],
    ['no storage', xml([], SHOTS), /has 0 storages/],
    ['a gap', xml([{ ...ONE[0]!, start: 8 }], SHOTS), /has a storage from 4096 on, where 0 is due/],
    ['an empty storage', xml([{ ...ONE[0]!, end: 0 }], SHOTS), /has a storage from 0 to 0/],
    ['a size that is none', xml(ONE, SHOTS).replace('<End>24', '<End>-24'), /has the number of sectors "-24" in <End>/],
    ['a size without bounds', xml(ONE, SHOTS).replace('<End>24', '<End>9999999999999999'), /has the number of sectors/],
    ['a file of another type', xml(ONE, SHOTS).replace('Compressed', 'Zipped'), /has a file of the type "Zipped"/],
    [
      'no file of its snapshot',
      xml(ONE, [
        [TOP, BASE],
        [BASE, NULL_GUID],
      ]),
      /has no file of the snapshot \{1111/,
    ],
    [
      'two files of one snapshot',
      xml([{ ...ONE[0]!, images: [...ONE[0]!.images, [TOP, 'Compressed', 'other.hds']] }], SHOTS),
      /has two files of the snapshot \{5fba.* for the storage at 0/,
    ],
    ['two snapshots of one name', xml(ONE, [...SHOTS, ...SHOTS]), /has two snapshots \{5fba/],
    [
      'a storage that is missing at the end',
      xml(ONE, SHOTS).replace('<Disk_size>1<', '<Disk_size>25<'),
      /has storages up to 12288, and a disk of 12800 bytes: one is missing/,
    ],
    ['a parent that is not there', xml(ONE, [[TOP, BASE]]), /has no snapshot \{1111/],
    [
      'snapshots in a circle',
      xml(ONE, [
        [TOP, BASE],
        [BASE, TOP],
      ]),
      /has snapshots without an end/,
    ],
    ['a file outside its folder', xml(ONE, SHOTS).replace('only.hds', 'sub/../../x.hds'), /^(missing|permission): /],
    ['a file that is not there', xml(ONE, SHOTS).replace('only.hds', 'gone.hds'), /^missing: .*gone\.hds/],
    [
      'a file shorter than its storage',
      xml(ONE, SHOTS).replace('<End>24', '<End>32'),
      /it has 24 sectors, and the descriptor says 32/,
    ],
  ])('for %s', (_, text, sentence) => {
    expanding('only.hds', [1, 2, 3]);
    mkdirSync(join(folder, 'sub'));
    writeFileSync(descriptor, text);
    let caught: unknown;
    try {
      openDisk(descriptor, { readOnly: true, format: 'parallels' }).close();
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(ImgfuseError);
    expect(`${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`).toMatch(sentence);
  });
});

test('an entry that leads nowhere is an error of its own cluster, and names its file', () => {
  expanding('only.hds', [1, 2, 3]);
  const { image } = parallelsImage({ pieces: [1, 2, 3], sectors: 24, bat: [1, 99, 3] });
  writeFileSync(join(folder, 'only.hds'), image);
  writeFileSync(descriptor, xml([{ start: 0, end: 24, images: [[TOP, 'Compressed', 'only.hds']] }], []));
  withDisk(descriptor, { readOnly: true }, (disk) => {
    const bytes = Buffer.alloc(1);
    expect(() => disk.read(bytes, 0, 1, guestOffset(4096))).toThrow(
      /only\.hds: at offset 0x63000: .*beyond the end of the file/,
    );
    disk.read(bytes, 0, 1, guestOffset(2 * 4096));
    expect(bytes[0]).toBe(1);
  });
});
