// Zeros, discards and partial writes: what is left of the rest of a cluster, with a backing file below it, at its end, and at
// the end of the disk. Situations of QEMU's tests 033, 034, 037, 154, 265, 271 and 290.

import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { Qcow2Session, type SessionOptions } from '../support/qcow2-session.ts';
import { hasQemu, qemuImg } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const KIB = 1024;

let folder: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

const open = (options: SessionOptions): Qcow2Session => new Qcow2Session(folder, options);

/** Extents of this image: where they are and what they are, as qemu-img map tells them. */
function map(session: Qcow2Session): string[] {
  const found = JSON.parse(qemuImg('map', '--output=json', '-f', 'qcow2', session.path)) as {
    start: number;
    length: number;
    zero: boolean;
    data: boolean;
    depth: number;
  }[];
  return found.map(({ start, length, zero, data, depth }) => `${start}+${length} ${zero} ${data} ${depth}`);
}

const FORMATS = ['compat=0.10', 'compat=1.1', 'compat=1.1,extended_l2=on'];

describe.each(FORMATS)('%s', (options) => {
  test('zeros at every alignment, over data, zeros and nothing, take nothing else away (033)', () => {
    const session = open({
      options,
      size: 1024 * KIB,
      commands: ['write -P 1 0 128k', 'write -z 256k 64k', 'write -P 2 320k 64k', 'write -P 3 512k 200k'],
    });
    // heads and tails of a sector, of a page, of a subcluster, at each kind of cluster
    for (const base of [0, 64, 128, 192, 256, 320, 384, 512, 704]) {
      for (const [lead, length] of [
        [512, 1024],
        [1, 65_534],
        [4096, 4096],
        [65_535, 2],
        [3000, 131_072],
      ] as const) {
        session.zero(base * KIB + lead, length);
        session.expectContent();
      }
    }
    session.finish();
  });

  test('zeros over the end of the backing file, beside it and behind it (034)', () => {
    const backing = new Uint8Array(200 * KIB + 512).fill(0x5a);
    const session = open({ options, size: 512 * KIB, backing });
    session.zero(190 * KIB, 5 * KIB);
    session.zero(200 * KIB, 4 * KIB);
    session.zero(256 * KIB, 64 * KIB);
    session.zero(64 * KIB, 64 * KIB);
    session.expectContent();
    session.write(200 * KIB + 256, 1, 7);
    session.write(260 * KIB, 100, 8);
    session.write(64 * KIB + 5, 5, 9);
    session.finish();
  });

  test('a write into each part of a cluster keeps what the backing file has in the others (037)', () => {
    const backing = Uint8Array.from({ length: 300 * KIB }, (_, i) => 1 + ((i >> 9) % 200));
    const session = open({ options, size: 400 * KIB, backing });
    // the first sectors, the middle, the last, one side of a border, both, whole clusters with ragged ends, the short end
    for (const [at, length] of [
      [0, 512],
      [66 * KIB, 3 * KIB],
      [192 * KIB - 512, 512],
      [192 * KIB - 100, 200],
      [200 * KIB + 7, 70 * KIB],
      [299 * KIB, 5 * KIB],
      [400 * KIB - 1, 1],
    ] as const) {
      session.write(at, length, 0xc0 + (at % 7));
      session.expectContent();
    }
    session.finish();
  });

  test('zeros of a part of a cluster whose rest is zeros make the whole of it zeros, and otherwise not (154)', () => {
    const backing = new Uint8Array(512 * KIB);
    backing.fill(0x11, 64 * KIB, 65 * KIB);
    backing.fill(0x22, 191 * KIB, 192 * KIB);
    const session = open({ options, size: 512 * KIB + 2048, backing });
    // beside backing data, in front of it, over it, and in a cluster without any, the last one of the disk too
    for (const [at, length] of [
      [66 * KIB, 2 * KIB],
      [128 * KIB, 2 * KIB],
      [64 * KIB + 512, 1024],
      [256 * KIB + 3 * KIB, KIB],
      [320 * KIB, 512],
      [512 * KIB + 512, 1536],
    ] as const) {
      session.zero(at, length);
      session.expectContent();
    }
    const before = session.image.allocatedBytes();
    // nothing but zeros is known to be there: no data cluster is needed
    session.zero(400 * KIB, 2 * KIB);
    if (options !== 'compat=0.10') expect(session.image.allocatedBytes()).toBe(before);
    session.finish();
  });

  test('a discard of everything reads as zeros with and without a backing file, and gives the clusters back (290)', () => {
    for (const backing of [undefined, new Uint8Array(128 * KIB).fill(0xff)]) {
      const session = open({
        options,
        size: 128 * KIB,
        ...(backing === undefined ? {} : { backing }),
        commands: ['write -P 1 0 128k'],
      });
      session.discard(0, 128 * KIB);
      session.finish();
      // version 2 cannot say "zero" over a backing file: there the zeros are data
      if (options === 'compat=0.10' && backing !== undefined) expect(map(session)).toEqual(['0+131072 false true 0']);
      else expect(map(session).every((extent) => / true false /.test(extent))).toBe(true);
    }
  });
});

test('a discard of parts of clusters zeroes them and leaves the rest (290)', () => {
  const session = open({
    size: 512 * KIB,
    backing: new Uint8Array(512 * KIB).fill(3),
    commands: ['write -P 1 0 256k'],
  });
  session.discard(100, 64 * KIB);
  session.discard(191 * KIB, 130 * KIB);
  session.discard(511 * KIB, KIB);
  session.finish();
});

test('requests of 4 KiB over clusters of 512 bytes in every mixture of states (265)', () => {
  const backing = Uint8Array.from({ length: 96 * KIB }, (_, i) => 1 + ((i >> 9) % 250));
  // states by sector: data, zero, backing; the rhythm of 3 meets the eight sectors of a request in every way
  const commands = Array.from(
    { length: 192 },
    (_, n) => ['write -P 9', 'write -z', ''][n % 3]! && `${['write -P 9', 'write -z'][n % 3]} ${n * 512} 512`,
  );
  const session = open({
    options: 'cluster_size=512',
    size: 128 * KIB,
    backing,
    commands: commands.filter((command) => command !== ''),
    tableCacheBytes: 8192,
  });
  for (let n = 0; n < 32; n += 2) session.write(n * 4 * KIB, 4 * KIB, 0x40 + n);
  for (let n = 1; n < 32; n += 4) session.zero(n * 4 * KIB, 4 * KIB);
  for (let n = 3; n < 31; n += 4) session.write(n * 4 * KIB + 2048, 4 * KIB, 0x80 + n);
  session.finish();
});

describe('subclusters (271)', () => {
  const SUBCLUSTER = 2 * KIB;
  const backing = new Uint8Array(256 * KIB).fill(0xbb);

  test('a write of each state of subcluster, beside each state', () => {
    const session = open({ options: 'extended_l2=on', size: 256 * KIB, backing });
    const states: readonly ((at: number) => void)[] = [
      (at) => session.write(at, SUBCLUSTER, 1),
      (at) => session.zero(at, SUBCLUSTER),
      () => undefined,
    ];
    // pairs of neighbours in every combination, then one byte over the border of each
    let at = 0;
    for (const first of states) {
      for (const second of states) {
        first(at);
        second(at + SUBCLUSTER);
        at += 3 * SUBCLUSTER;
      }
    }
    session.expectContent();
    for (let border = SUBCLUSTER; border < at; border += 3 * SUBCLUSTER) session.write(border - 1, 2, 0x77);
    session.finish();
  });

  test('only the subclusters of a write are allocated, the others show the backing file', () => {
    const session = open({ options: 'extended_l2=on', size: 256 * KIB, backing });
    session.write(5 * SUBCLUSTER + 10, 10, 1);
    session.write(64 * KIB + 31 * SUBCLUSTER, SUBCLUSTER, 2);
    const at = guestOffset(0);
    expect(session.image.map(at, 64 * KIB)).toMatchObject({ length: 5 * SUBCLUSTER, status: 'unallocated' });
    session.finish();
    expect(map(session)).toEqual([
      '0+10240 false true 1',
      '10240+2048 false true 0',
      '12288+116736 false true 1',
      '129024+2048 false true 0',
      '131072+131072 false true 1',
    ]);
  });

  test('a cluster of zeros or of nothing that gets data in one subcluster keeps the others, and a discard takes all', () => {
    const session = open({ options: 'extended_l2=on', size: 256 * KIB, backing, commands: ['write -z 64k 64k'] });
    session.write(64 * KIB + 3 * SUBCLUSTER, 100, 5);
    session.write(128 * KIB, 64 * KIB, 6);
    session.zero(128 * KIB + SUBCLUSTER, SUBCLUSTER);
    session.write(128 * KIB + SUBCLUSTER + 1, 1, 7);
    session.expectContent();
    session.discard(64 * KIB, 128 * KIB);
    session.expectContent();
    session.write(100 * KIB, 5, 8);
    session.finish();
  });

  test('a compressed cluster is whole: a write of a part of it keeps the rest', () => {
    const session = open({
      options: 'extended_l2=on',
      size: 256 * KIB,
      backing,
      commands: ['write -c -P 4 64k 64k', 'write -c -P 5 128k 64k'],
    });
    session.write(64 * KIB + 9 * SUBCLUSTER, 100, 1);
    session.zero(128 * KIB + SUBCLUSTER, SUBCLUSTER);
    session.finish();
  });
});
