// VDI images in both directions: what qemu-img makes and qemu-io writes reads here, and what is made and written here passes
// qemu-img check and compare. QEMU opens images of version 1.1 with blocks of 1 MiB and without a parent; extra data it
// overlooks, so such images are left out (test/unit/format/vdi has them).

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { contentOf, DISCARDED, FIELD, FREE, MIB, vdiBytes, virtualBoxLayout, withField } from '../support/vdi-bytes.ts';

const SIZE = 12 * MIB + 1536;

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.vdi');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function create(options: Readonly<Record<string, string>> = {}, size = SIZE): void {
  createDisk(image, 'vdi', { size, options: new Map(Object.entries(options)) });
}

/** qemu-img finds nothing wrong and reads exactly these bytes. */
function expectGood(wanted: Uint8Array): void {
  qemuCheck(image, 'vdi');
  const raw = join(folder, 'wanted.raw');
  writeFileSync(raw, wanted);
  qemuImg('compare', '-q', '-f', 'vdi', '-F', 'raw', image, raw);
}

function bytesOfQemu(): Buffer {
  const raw = join(folder, 'theirs.raw');
  qemuImg('convert', '-f', 'vdi', '-O', 'raw', image, raw);
  return readFileSync(raw);
}

describe.each(['off', 'on'])('an image of qemu-img with static=%s', (isStatic) => {
  beforeEach(() => {
    qemuImg('create', '-q', '-f', 'vdi', '-o', `static=${isStatic}`, image, String(SIZE));
    qemuIo(image, 'vdi', 'write -P 0x21 3M 100k', 'write -P 0x22 512 1M', 'write -P 0x23 12M 1536');
  });

  test('is probed, inspected, checked, mapped and read as QEMU does it', () => {
    const info = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
    expect(inspectDisk(image)).toMatchObject({
      format: 'vdi',
      virtualSize: info['virtual-size'],
      clusterSize: info['cluster-size'],
    });
    expect(checkDisk(image, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
    withDisk(image, { readOnly: true }, (disk) => {
      const theirs = bytesOfQemu();
      expect(firstDifference(readAll(disk), theirs)).toBe('none');
      const file = readFileSync(image);
      for (const { start, length, status, hostOffset } of disk.extents()) {
        if (status !== 'data') continue;
        const stored = file.subarray(hostOffset, hostOffset! + length);
        expect(firstDifference(stored, theirs.subarray(start, start + length)), `${start}`).toBe('none');
      }
    });
  });

  test('takes writes, zeros, discards and a new size, and QEMU agrees after each of them', () => {
    const model = Buffer.alloc(SIZE);
    bytesOfQemu().copy(model);
    const fill = (disk: VirtualDisk, byte: number, at: number, length: number): void => {
      model.fill(byte, at, at + length);
      disk.write(Buffer.alloc(length, byte), 0, length, guestOffset(at));
    };
    const zero = (disk: VirtualDisk, at: number, length: number): void => {
      model.fill(0, at, at + length);
      disk.discard(guestOffset(at), length);
    };
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
    withDisk(image, { readOnly: false }, (disk) => disk.resize(300 * MIB));
    const grown = Buffer.alloc(300 * MIB);
    model.copy(grown);
    expectGood(grown);
    withDisk(image, { readOnly: false }, (disk) => disk.resize(5 * MIB));
    expectGood(grown.subarray(0, 5 * MIB));
  });
});

test.each([
  {},
  { static: 'on' },
] as const)('an image made here with %j is read, written and checked by QEMU', (options) => {
  create(options);
  qemuCheck(image, 'vdi');
  qemuIo(image, 'vdi', 'write -P 0x41 1000k 100k', 'write -P 0x42 11M 1M', 'read -P 0 5M 1M');
  const theirs = bytesOfQemu();
  withDisk(image, { readOnly: false }, (disk) => expect(firstDifference(readAll(disk), theirs)).toBe('none'));
  expectGood(theirs);
});

test('a static image of QEMU, whose map has no room and whose indices are all in use, grows', () => {
  qemuImg('create', '-q', '-f', 'vdi', '-o', 'static=on', image, '128M');
  qemuIo(image, 'vdi', 'write -P 0x43 5M 70000', 'write -P 0x44 127M 1M');
  const grown = Buffer.alloc(300 * MIB);
  bytesOfQemu().copy(grown);
  withDisk(image, { readOnly: false }, (disk) => disk.resize(300 * MIB));
  expectGood(grown);
});

test('qemu-img and imgfuse take turns at one image, and lose nothing', () => {
  create();
  const random = seededRandom(19);
  const model = Buffer.alloc(SIZE);
  for (let turn = 0; turn < 12; turn++) {
    const at = Math.floor((random() * (SIZE - 200_000)) / 512) * 512;
    const length = 512 * (1 + Math.floor(random() * 300));
    model.fill(turn + 1, at, at + length);
    if (turn % 2 === 0) qemuIo(image, 'vdi', `write -P ${turn + 1} ${at} ${length}`);
    else
      withDisk(image, { readOnly: false }, (disk) => {
        disk.write(Buffer.alloc(length, turn + 1), 0, length, guestOffset(at));
        const hole = Math.floor(random() * 12) * MIB;
        model.fill(0, hole, hole + MIB);
        disk.discard(guestOffset(hole), MIB);
      });
    expectGood(model);
  }
});

test('the layout of VirtualBox, with indices in any order and discarded blocks, reads in both the same', () => {
  const recipe = { entries: [2, FREE, 0, DISCARDED, 1], blockSize: MIB, diskSize: 5 * MIB - 1000 };
  writeFileSync(image, virtualBoxLayout(recipe));
  expectGood(contentOf(recipe));
  withDisk(image, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), contentOf(recipe))).toBe('none'));
});

test('what a killed process leaves is a line of qemu-img check until the next open, and no data is lost', () => {
  create();
  const disk = openDisk(image, { readOnly: false, locks: 'none' });
  disk.write(Buffer.alloc(512, 9), 0, 512, guestOffset(0));
  disk.flush();
  const { code, output } = tryQemu('qemu-img', 'check', '-f', 'vdi', image);
  expect({ code, output }).toMatchObject({ code: 2, output: expect.stringContaining('allocated blocks mismatch') });
  // a copy of the file is what the killed process would have left
  writeFileSync(join(folder, 'killed.vdi'), readFileSync(image));
  disk.close();
  const left = join(folder, 'killed.vdi');
  withDisk(left, { readOnly: false }, (again) => {
    const bytes = Buffer.alloc(512);
    again.read(bytes, 0, 512, guestOffset(0));
    expect(bytes).toEqual(Buffer.alloc(512, 9));
  });
  qemuCheck(left, 'vdi');
});

test('a count that is too low, which QEMU would write blocks twice with, is corrected by a read-write open', () => {
  writeFileSync(image, withField(vdiBytes({ entries: [0, 1, FREE], blockSize: MIB }), FIELD.allocated, 1));
  expect(tryQemu('qemu-img', 'check', '-f', 'vdi', image).code).toBe(2);
  withDisk(image, { readOnly: false }, () => undefined);
  qemuCheck(image, 'vdi');
});
