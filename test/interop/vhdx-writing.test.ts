// Writing VHDX images, in both directions: what qemu-img makes is written here, what is made here is written there, and QEMU and the
// judge of test/support replay what a killed process of ours leaves.

import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { MIB } from '../support/vhdx-bytes.ts';
import { vhdxContent } from '../support/vhdx-judge.ts';

const SIZE = 12 * MIB + 1536;
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
/** Changes before the process is killed at last; it might have been after one in so many. */
const TURNS = 500;
const CHECKED = Number(process.env['CHECKED'] ?? 40);

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.vhdx');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function create(options: Readonly<Record<string, string>> = {}, size = SIZE): void {
  createDisk(image, 'vhdx', { size, options: new Map(Object.entries(options)) });
}

/** qemu-img finds nothing wrong, and it and the judge read exactly these bytes. */
function expectGood(wanted: Uint8Array, path = image): void {
  qemuCheck(path, 'vhdx');
  const raw = join(folder, 'wanted.raw');
  writeFileSync(raw, wanted);
  qemuImg('compare', '-q', '-f', 'vhdx', '-F', 'raw', path, raw);
  if (wanted.length < 16 * MIB) expect(firstDifference(vhdxContent(readFileSync(path)), wanted)).toBe('none');
  expect(checkDisk(path, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
}

function bytesOfQemu(): Buffer {
  const raw = join(folder, 'theirs.raw');
  qemuImg('convert', '-f', 'vhdx', '-O', 'raw', image, raw);
  return readFileSync(raw);
}

describe.each([
  'subformat=dynamic,block_size=1M',
  'subformat=dynamic,block_size=1M,block_state_zero=off',
  'subformat=dynamic',
  'subformat=dynamic,block_size=256M,log_size=4M',
  'subformat=fixed,block_size=2M',
  'subformat=fixed,block_size=1M,block_state_zero=off',
])('an image of qemu-img with %s', (options) => {
  test('takes writes, zeros, discards and a new size, and QEMU agrees after each of them', () => {
    qemuImg('create', '-q', '-f', 'vhdx', '-o', options, image, String(SIZE));
    qemuIo(image, 'vhdx', 'write -P 0x21 3M 100k', 'write -P 0x22 512 1M', 'write -P 0x23 12M 1536');
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
      (disk) => zero(disk, 0, SIZE),
      (disk) => fill(disk, 0x33, 12 * MIB - 100, 300),
    ];
    for (const change of changes) {
      withDisk(image, { readOnly: false }, change);
      expectGood(model);
    }
    withDisk(image, { readOnly: false }, (disk) => disk.resize(40 * MIB));
    const grown = Buffer.alloc(40 * MIB);
    model.copy(grown);
    expectGood(grown);
    withDisk(image, { readOnly: false }, (disk) => disk.resize(5 * MIB));
    expectGood(grown.subarray(0, 5 * MIB));
  });
});

test('the table of a new image of 64 TiB takes no room on the host, and its disk is zeros for QEMU', () => {
  create({ block_size: '1M' }, 2 ** 46);
  const { blocks, size } = statSync(image);
  expect(size).toBeGreaterThan(2 ** 29);
  expect(blocks * 512).toBeLessThan(2 * MIB);
  withDisk(image, { readOnly: false }, (disk) =>
    disk.write(Buffer.alloc(512, 0x62), 0, 512, guestOffset(2 ** 46 - 512)),
  );
  qemuIo(
    image,
    'vhdx',
    'read -P 0 0 1M',
    `read -P 0 ${2 ** 46 - MIB} ${MIB - 512}`,
    `read -P 0x62 ${2 ** 46 - 512} 512`,
  );
  expect(statSync(image).blocks * 512).toBeLessThan(8 * MIB);
});

test.each([
  {},
  { block_size: '1M', log_size: '3M' },
  { block_state_zero: 'on' },
  { subformat: 'fixed' },
] as const)('an image made here with %j is read, written and checked by QEMU', (options) => {
  create(options);
  qemuCheck(image, 'vhdx');
  const info = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
  expect(inspectDisk(image)).toMatchObject({
    ...{ format: info['format'], virtualSize: info['virtual-size'], clusterSize: info['cluster-size'] },
    dirty: false,
  });
  qemuIo(image, 'vhdx', 'write -P 0x41 1000k 100k', 'write -P 0x42 11M 1M', 'read -P 0 5M 1M');
  const theirs = bytesOfQemu();
  withDisk(image, { readOnly: false }, (disk) => expect(firstDifference(readAll(disk), theirs)).toBe('none'));
  expectGood(theirs);
});

test.each([
  ['100M', 8],
  ['1025M', 16],
  ['101G', 32],
  ['33T', 64],
])('a disk of %s has the blocks that qemu-img gives it', (size, mib) => {
  const theirs = join(folder, 'theirs.vhdx');
  qemuImg('create', '-q', '-f', 'vhdx', theirs, size);
  const { virtualSize } = inspectDisk(theirs);
  create({}, virtualSize);
  for (const path of [theirs, image]) expect(inspectDisk(path)).toMatchObject({ clusterSize: mib * MIB, virtualSize });
  qemuCheck(image, 'vhdx');
});

test('qemu-img and imgfuse take turns at one image, and lose nothing', () => {
  create({ block_size: '1M' });
  const random = seededRandom(19);
  const model = Buffer.alloc(SIZE);
  for (let turn = 0; turn < 12; turn++) {
    const at = Math.floor((random() * (SIZE - 200_000)) / 512) * 512;
    const length = 512 * (1 + Math.floor(random() * 300));
    model.fill(turn + 1, at, at + length);
    if (turn % 2 === 0) qemuIo(image, 'vhdx', `write -P ${turn + 1} ${at} ${length}`);
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

/** Writes and discards of whole blocks, each of which is an entry of the log: it goes round its ring several times. */
test(`what a killed process leaves is replayed by QEMU, by the judge and here, whatever was acknowledged (seed ${SEED})`, () => {
  create({ block_size: '1M' }, 8 * MIB);
  const random = seededRandom(SEED);
  const pick = (below: number): number => Math.floor(random() * below);
  const model = Buffer.alloc(8 * MIB);
  const killed = join(folder, 'killed.vhdx');
  const disk = openDisk(image, { readOnly: false, locks: 'none' });
  let dirty = 0;
  for (let turn = 1; turn <= TURNS; turn++) {
    const block = pick(8) * MIB;
    if (random() < 0.5) {
      model.fill(0, block, block + MIB);
      disk.discard(guestOffset(block), MIB);
    } else {
      const at = block + pick(MIB - 4096);
      model.fill(turn % 256, at, at + 4096);
      disk.write(Buffer.alloc(4096, turn % 256), 0, 4096, guestOffset(at));
    }
    if (pick(4) === 0) disk.flush();
    if (turn % 200 === 0) disk.makeClean();
    if (pick(CHECKED) > 0 && turn < TURNS - 2) continue;
    // a copy of the file is what a killed process leaves
    copyFileSync(image, killed);
    if (inspectDisk(killed).dirty) dirty++;
    expect(firstDifference(vhdxContent(readFileSync(killed)), model), `judge, turn ${turn}`).toBe('none');
    withDisk(killed, { readOnly: true }, (seen) => expect(firstDifference(readAll(seen), model)).toBe('none'));
    if (turn % 2 === 0) qemuImg('check', '-q', '-r', 'all', '-f', 'vhdx', killed);
    else if (turn % 3 === 0) checkDisk(killed, { repair: 'all', log: () => undefined });
    else withDisk(killed, { readOnly: false }, () => undefined);
    if (turn % 2 === 0) {
      const raw = join(folder, 'wanted.raw');
      writeFileSync(raw, model);
      qemuImg('compare', '-q', '-f', 'vhdx', '-F', 'raw', killed, raw);
      qemuCheck(killed, 'vhdx');
    } else expectGood(model, killed);
  }
  disk.close();
  expectGood(model);
  expect(dirty).toBeGreaterThan(TURNS / CHECKED / 3);
  // blocks were used again, which takes two flushes: new ones for all would be a hundred
  expect(statSync(image).size).toBeLessThan(32 * MIB);
});

test('QEMU finds a table that had to move, also when the move is in the log alone', () => {
  // room for 131072 entries, and blocks of 1 MiB
  const large = 150_000 * MIB;
  create({ block_size: '1M' });
  const disk = openDisk(image, { readOnly: false });
  disk.write(Buffer.alloc(4096, 0x61), 0, 4096, guestOffset(5 * MIB));
  disk.resize(large);
  disk.write(Buffer.alloc(4096, 0x62), 0, 4096, guestOffset(large - 4096));
  disk.flush();
  const killed = join(folder, 'killed.vhdx');
  copyFileSync(image, killed);
  disk.close();
  for (const path of [image, killed]) {
    qemuIo(
      path,
      'vhdx',
      'read -P 0x61 5M 4k',
      `read -P 0x62 ${large - 4096} 4k`,
      'read -P 0 100G 1M',
      'write -P 0x63 120G 4k',
    );
    qemuCheck(path, 'vhdx');
    expect(checkDisk(path, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0 });
    withDisk(path, { readOnly: true }, (opened) => {
      const bytes = Buffer.alloc(3);
      for (const [i, at] of [5 * MIB, large - 4096, 120 * 1024 * MIB].entries())
        opened.read(bytes, i, 1, guestOffset(at));
      expect([...bytes]).toEqual([0x61, 0x62, 0x63]);
    });
  }
});
