// Parallels images in both directions: what qemu-img has made and qemu-io has written reads here as it does there, and what is written here
// passes qemu-img check and compare.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { parallelsImage } from '../support/piece-bytes.ts';
import { oldParallels } from '../support/plain-parallels.ts';
import { hasQemu, QemuHolder, qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const MIB = 1024 * 1024;

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.parallels');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** What QEMU reads of the image is what is read here, and what its map says leads to the same bytes. */
function expectSame(): void {
  const raw = join(folder, 'theirs.raw');
  qemuImg('convert', '-f', 'parallels', '-O', 'raw', image, raw);
  const theirs = readFileSync(raw);
  const info = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
  expect(inspectDisk(image)).toMatchObject({ format: 'parallels', virtualSize: info['virtual-size'], dirty: false });
  withDisk(image, { readOnly: true }, (disk) => {
    expect(firstDifference(readAll(disk), theirs)).toBe('none');
    const file = readFileSync(image);
    for (const { start, length, status, hostOffset } of disk.extents()) {
      const stored = status === 'data' ? file.subarray(hostOffset, hostOffset! + length) : Buffer.alloc(length);
      expect(firstDifference(stored, theirs.subarray(start, start + length)), `${start}`).toBe('none');
    }
  });
}

test.each([
  ['64k', '3M'],
  ['1M', '20M'],
])('an image with clusters of %s reads as QEMU reads it', (cluster, size) => {
  qemuImg('create', '-q', '-f', 'parallels', '-o', `cluster_size=${cluster}`, image, size);
  expectSame();
  qemuIo(image, 'parallels', 'write -P 1 2M 100k', 'write -P 2 0 512', 'write -P 3 1500k 300k');
  expectSame();
});

test.each([
  ['WithouFreSpacExt', 8],
  ['WithoutFreeSpace', 63],
])('QEMU reads the made-up image of the tests, %s with clusters of %i sectors, as they do', (magic, clusterSectors) => {
  const { content, image: bytes } = parallelsImage({ magic, clusterSectors });
  writeFileSync(image, bytes);
  expectSame();
  withDisk(image, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), content)).toBe('none'));
});

test('QEMU and this program read the same through an overlay', () => {
  qemuImg('create', '-q', '-f', 'parallels', image, '4M');
  qemuIo(image, 'parallels', 'write -P 9 1M 70k');
  const overlay = join(folder, 'overlay');
  qemuImg('create', '-q', '-f', 'qcow2', '-b', image, '-F', 'parallels', overlay);
  qemuIo(overlay, 'qcow2', 'write -P 7 1030k 3k');
  qemuImg('convert', '-O', 'raw', overlay, join(folder, 'theirs.raw'));
  withDisk(overlay, { readOnly: true }, (disk) =>
    expect(firstDifference(readAll(disk), readFileSync(join(folder, 'theirs.raw')))).toBe('none'),
  );
});

/** qemu-img finds nothing wrong and reads exactly these bytes. */
function expectGood(wanted: Uint8Array): void {
  qemuCheck(image, 'parallels');
  const raw = join(folder, 'wanted.raw');
  writeFileSync(raw, wanted);
  qemuImg('compare', '-q', '-f', 'parallels', '-F', 'raw', image, raw);
  expect(checkDisk(image, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
}

function bytesOfQemu(): Buffer {
  const raw = join(folder, 'theirs.raw');
  qemuImg('convert', '-f', 'parallels', '-O', 'raw', image, raw);
  return readFileSync(raw);
}

/** By qemu-img, by this program, and of the first kind, which neither makes. */
const MAKERS: readonly (readonly [string, (size: number) => void])[] = [
  ['of qemu-img', (size) => void qemuImg('create', '-q', '-f', 'parallels', image, String(size))],
  [
    'of qemu-img with small clusters',
    (size) => void qemuImg('create', '-q', '-f', 'parallels', '-o', 'cluster_size=64k', image, String(size)),
  ],
  ['made here', (size) => void createDisk(image, 'parallels', { size, options: new Map() })],
  [
    'made here with small clusters',
    (size) => void createDisk(image, 'parallels', { size, options: new Map([['cluster_size', '4k']]) }),
  ],
  ['of the first kind', (size) => writeFileSync(image, oldParallels(size).bytes())],
];

describe.each(MAKERS)('an image %s', (_, make) => {
  const SIZE = 12 * MIB + 1536;
  beforeEach(() => make(SIZE));

  test('takes writes, zeros, discards and new sizes, and QEMU agrees after each of them', () => {
    const model = Buffer.alloc(SIZE);
    const fill = (disk: VirtualDisk, byte: number, at: number, length: number): void => {
      model.fill(byte, at, at + length);
      disk.write(Buffer.alloc(length, byte), 0, length, guestOffset(at));
    };
    const zero = (disk: VirtualDisk, at: number, length: number): void => {
      model.fill(0, at, at + length);
      disk.discard(guestOffset(at), length);
    };
    qemuIo(image, 'parallels', 'write -P 0x21 3M 100k', 'write -P 0x23 12M 1536');
    model.fill(0x21, 3 * MIB, 3 * MIB + 100 * 1024).fill(0x23, 12 * MIB, 12 * MIB + 1536);
    const changes: readonly ((disk: VirtualDisk) => void)[] = [
      (disk) => fill(disk, 0x31, 7 * MIB - 700, 2000),
      (disk) => zero(disk, 0, 2 * MIB),
      (disk) => zero(disk, 3 * MIB + 1000, 5000),
      (disk) => fill(disk, 0x32, 0, 12 * MIB),
      (disk) => zero(disk, 4 * MIB, 5 * MIB),
      (disk) => fill(disk, 0x33, 12 * MIB - 100, 300),
    ];
    for (const change of changes) {
      withDisk(image, { readOnly: false }, change);
      expectGood(model);
    }
    withDisk(image, { readOnly: false }, (disk) => disk.resize(100 * MIB));
    const grown = Buffer.alloc(100 * MIB);
    model.copy(grown);
    expectGood(grown);
    qemuIo(image, 'parallels', 'write -P 0x24 99M 1M');
    grown.fill(0x24, 99 * MIB);
    withDisk(image, { readOnly: false }, (disk) => expect(firstDifference(readAll(disk), grown)).toBe('none'));
    withDisk(image, { readOnly: false }, (disk) => disk.resize(5 * MIB));
    expectGood(grown.subarray(0, 5 * MIB));
  });

  test('is written in turn by qemu-io and by this program, and loses nothing', () => {
    const random = seededRandom(19);
    const model = Buffer.alloc(SIZE);
    for (let turn = 0; turn < 12; turn++) {
      const at = Math.floor((random() * (SIZE - 200_000)) / 512) * 512;
      const length = 512 * (1 + Math.floor(random() * 300));
      model.fill(turn + 1, at, at + length);
      if (turn % 2 === 0) qemuIo(image, 'parallels', `write -P ${turn + 1} ${at} ${length}`);
      else
        withDisk(image, { readOnly: false }, (disk) => {
          disk.write(Buffer.alloc(length, turn + 1), 0, length, guestOffset(at));
          const hole = Math.floor(random() * 12) * MIB;
          model.fill(0, hole, hole + MIB);
          disk.discard(guestOffset(hole), MIB);
        });
    }
    expectGood(model);
  });

  test('that QEMU has left in use is repaired by the next open, and one that was left here by QEMU', async () => {
    const holder = await QemuHolder.open(image, ['-f', 'parallels'], 'write -P 7 1M 64k', 'flush', 'write -P 8 2M 64k');
    await holder.kill();
    expect(inspectDisk(image).dirty).toBe(true);
    const log: string[] = [];
    withDisk(image, { readOnly: false, log: (sentence) => log.push(sentence) }, (disk) => {
      const bytes = readAll(disk);
      expect([bytes[MIB], bytes[MIB + 65_535]]).toEqual([7, 7]);
    });
    expect(log.join()).toContain('was not closed clean');
    expect(inspectDisk(image).dirty).toBe(false);

    const disk = openDisk(image, { readOnly: false });
    disk.write(Buffer.alloc(65_536, 9), 0, 65_536, guestOffset(5 * MIB));
    disk.flush();
    const killed = readFileSync(image);
    disk.close();
    writeFileSync(image, killed);
    expect(inspectDisk(image).dirty).toBe(true);
    tryQemu('qemu-img', 'check', '-r', 'all', '-f', 'parallels', image);
    expect(
      bytesOfQemu()
        .subarray(5 * MIB, 5 * MIB + 65_536)
        .every((byte) => byte === 9),
    ).toBe(true);
  });
});
