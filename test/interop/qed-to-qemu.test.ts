// Images created and written here pass qemu-img check and compare, after every kind of change; and what one program leaves
// unclean, the other takes over without loss.

import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { NEED_CHECK, u64At } from '../support/qed-bytes.ts';
import { hasQemu, QemuHolder, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const RUNS = sliceOf('besideQemu', 'qed');
const SIZE = 6 * 1024 * 1024 + 512;

let folder: string;
let image: string;

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qed');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function create(cluster: string, table: string, backing?: { path: string; format: string }): void {
  createDisk(image, 'qed', {
    size: SIZE,
    options: new Map([
      ['cluster_size', cluster],
      ['table_size', table],
    ]),
    ...(backing === undefined ? {} : { backing: backing.path, backingFormat: backing.format }),
  });
}

/** qemu-img finds nothing wrong and reads exactly these bytes. */
function expectGood(wanted: Uint8Array): void {
  qemuCheck(image, 'qed');
  const raw = join(folder, 'wanted.raw');
  writeFileSync(raw, wanted);
  qemuImg('compare', '-q', '-f', 'qed', '-F', 'raw', image, raw);
}

function needCheck(path: string): boolean {
  return (u64At(readFileSync(path), 16) & NEED_CHECK) !== 0n;
}

function fill(disk: VirtualDisk, byte: number, at: number, length: number): void {
  disk.write(Buffer.alloc(length, byte), 0, length, guestOffset(at));
}

const geometries = [
  ['4k', '2'],
  ['4k', '16'],
  ['16k', '4'],
  ['64k', '4'],
  ['256k', '16'],
  ['1M', '2'],
] as const;

describe.each(geometries)('an image with clusters of %s and tables of %s', (cluster, table) => {
  test.each([
    'none',
    'raw',
    'qed',
  ] as const)('passes qemu-img check and compare after every kind of change, backing %s', (below) => {
    const base = join(folder, 'base');
    if (below !== 'none') {
      qemuImg('create', '-q', '-f', below, base, '5M');
      qemuIo(base, below, 'write -P 0x61 100k 2M', 'write -P 0x62 4000k 1000k');
    }
    create(cluster, table, below === 'none' ? undefined : { path: 'base', format: below });
    const changes: readonly (readonly [name: string, change: (disk: VirtualDisk) => void])[] = [
      ['nothing', () => undefined],
      [
        'writes',
        (disk) => [fill(disk, 1, 100, 10), fill(disk, 2, 1_000_000, 2_500_000), fill(disk, 3, SIZE - 700, 700)],
      ],
      ['discards', (disk) => [disk.discard(1_200_000, 900_000), disk.discard(0, 512)]],
      ['write-zeroes', (disk) => [disk.writeZeroes(2_900_001, 50_000), disk.writeZeroes(4_100_000, 300_000)]],
      ['preallocation', (disk) => disk.preallocate(5_000_000, 200_000)],
      ['a shrink', (disk) => disk.resize(3_000_320)],
      ['a growth', (disk) => disk.resize(SIZE + 1_048_576)],
      ['writes into what was freed', (disk) => [fill(disk, 4, 1_250_000, 600_000), fill(disk, 5, SIZE, 300_000)]],
      ['discarding all of it', (disk) => disk.discard(0, disk.size())],
    ];
    for (const [name, change] of changes) {
      const wanted = withDisk(image, { readOnly: false }, (disk) => {
        change(disk);
        return readAll(disk);
      });
      expect(needCheck(image), name).toBe(false);
      expectGood(wanted);
    }
  });
});

describe('an unclean image', () => {
  test('left by a qemu-io that was killed is repaired here, keeps what it flushed, and passes the check', async () => {
    create('64k', '4');
    const holder = await QemuHolder.open(
      image,
      ['-f', 'qed', '-t', 'writeback'],
      'write -P 0x51 0 200k',
      'write -P 0x52 3M 100k',
      'flush',
    );
    await holder.kill();
    expect(needCheck(image)).toBe(true);
    const log: string[] = [];
    const content = withDisk(image, { readOnly: false, log: (sentence) => log.push(sentence) }, readAll);
    expect(log.join()).toContain('not closed clean');
    expect(content.subarray(0, 200 * 1024).every((byte) => byte === 0x51)).toBe(true);
    expect(content.subarray(3 << 20, (3 << 20) + 100 * 1024).every((byte) => byte === 0x52)).toBe(true);
    expect(needCheck(image)).toBe(false);
    expectGood(content);
  });

  test('with nothing but the bit set is checked and cleared', () => {
    qemuImg('create', '-q', '-f', 'qed', image, '6M');
    qemuIo(image, 'qed', 'write -P 9 1M 64k');
    const bytes = readFileSync(image);
    bytes[16] = 2;
    writeFileSync(image, bytes);
    const content = withDisk(image, { readOnly: false }, readAll);
    expect(needCheck(image)).toBe(false);
    expectGood(content);
  });

  test('with leaks gives them back', () => {
    qemuImg('create', '-q', '-f', 'qed', image, '6M');
    qemuIo(image, 'qed', 'write -P 9 1M 64k');
    const bytes = Buffer.concat([readFileSync(image), Buffer.alloc(5 * 65_536)]);
    bytes[16] = 2;
    writeFileSync(image, bytes);
    const content = withDisk(image, { readOnly: false }, readAll);
    expect(readFileSync(image).length).toBe(bytes.length - 5 * 65_536);
    expectGood(content);
  });

  test.each([
    'none',
    'raw',
  ] as const)('that we left is taken over by qemu-io, which reads what was flushed, backing %s', (below) => {
    if (below === 'raw') qemuImg('create', '-q', '-f', 'raw', join(folder, 'base'), '5M');
    if (below === 'raw') qemuIo(join(folder, 'base'), 'raw', 'write -P 0x61 0 5M');
    create('64k', '4', below === 'none' ? undefined : { path: 'base', format: 'raw' });
    const copy = join(folder, 'copy.qed');
    const disk = openDisk(image, { readOnly: false });
    fill(disk, 0x41, 10_000, 300_000);
    disk.discard(65_536, 65_536);
    fill(disk, 0x42, 5_000_000, 1000);
    disk.flush();
    copyFileSync(image, copy);
    disk.close();
    expect(needCheck(copy)).toBe(true);
    qemuIo(
      copy,
      'qed',
      'read -P 0x41 10000 55536',
      'read -P 0 64k 64k',
      'read -P 0x41 128k 178928',
      'read -P 0x42 5000000 1000',
      'write -P 0x43 2M 64k',
      'read -P 0x43 2M 64k',
    );
    expect(needCheck(copy)).toBe(false);
    const content = withDisk(copy, { readOnly: false }, readAll);
    expect(content[(2 << 20) + 5]).toBe(0x43);
    // QEMU gives back no leaks: what was extended ahead and the discarded cluster stay for us
    expect(checkDisk(copy, { repair: 'leaks', log: () => undefined }).corruptions).toBe(0);
    qemuCheck(copy, 'qed');
  });
});

test('random operations here and in qemu-io give the same disk', () => {
  const extent = fc.record({
    at: fc
      .oneof(
        fc.nat(SIZE - 1),
        fc.nat(90).map((n) => n * 65_536),
      )
      .map((at) => Math.min(at, SIZE - 1)),
    length: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.constantFrom(4096, 65_536, 131_072)),
    byte: fc.integer({ min: 1, max: 255 }),
    kind: fc.constantFrom('write' as const, 'write' as const, 'zero' as const),
  });
  const geometry = fc.constantFrom(['4k', '2'] as const, ['16k', '4'] as const, ['64k', '4'] as const);
  fc.assert(
    fc.property(geometry, fc.array(extent, { minLength: 1, maxLength: 25 }), ([cluster, table], steps) => {
      const theirs = join(folder, 'theirs.qed');
      const path = image;
      image = join(folder, `ours-${Math.random()}.qed`);
      create(cluster, table);
      qemuImg('create', '-q', '-f', 'qed', '-o', `cluster_size=${cluster},table_size=${table}`, theirs, String(SIZE));
      const commands: string[] = [];
      const content = withDisk(image, { readOnly: false }, (disk) => {
        for (const { at, byte, kind, ...rest } of steps) {
          const length = Math.min(rest.length, SIZE - at);
          if (kind === 'write') fill(disk, byte, at, length);
          else disk.writeZeroes(at, length);
          commands.push(kind === 'write' ? `write -P ${byte} ${at} ${length}` : `write -z ${at} ${length}`);
        }
        return readAll(disk);
      });
      qemuIo(theirs, 'qed', ...commands);
      qemuImg('compare', '-q', '-f', 'qed', '-F', 'qed', image, theirs);
      qemuCheck(image, 'qed');
      expect(firstDifference(withDisk(theirs, { readOnly: true }, readAll), content)).toBe('none');
      image = path;
    }),
    { numRuns: RUNS },
  );
});
