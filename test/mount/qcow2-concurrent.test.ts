// Many requests in the same clusters at once, through a mount: writes of sectors into clusters that do not exist yet, with and
// without a backing file below. Situations of QEMU's tests 035 and 038; 046 is in test/interleave, where the order is chosen.

import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { firstDifference } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench } from './cli-harness.ts';

const SIZE = 6 * 1024 * 1024;
const SECTOR = 512;
/** of one request; several meet in every cluster */
const PIECES = [1, 2, 3, 8, 17];

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, hasQemu && canMountAsRoot(), 'qemu-img, root and /dev/fuse');
  bench = new Bench();
});
afterEach(() => bench?.cleanUp());

test.each([
  ['clusters of 512 bytes', 'cluster_size=512', false],
  ['clusters of 64 KiB', 'cluster_size=64k', false],
  ['clusters of 4 KiB over a backing file', 'cluster_size=4k', true],
  ['clusters of 64 KiB over a backing file', 'cluster_size=64k', true],
  ['subclusters over a backing file', 'cluster_size=64k,extended_l2=on', true],
] as const)('writes of sectors meet in new %s (035, 038)', async (_name, options, hasBacking) => {
  const [image, base] = [bench.path('disk.qcow2'), bench.path('base.raw')];
  const model = Buffer.alloc(SIZE);
  if (hasBacking) {
    for (let i = 0; i < SIZE; i++) model[i] = 1 + ((i >> 9) % 250);
    const file = await open(base, 'w');
    await file.write(model);
    await file.close();
  }
  qemuImg(
    'create',
    '-q',
    '-f',
    'qcow2',
    '-o',
    options,
    ...(hasBacking ? ['-b', base, '-F', 'raw'] : []),
    image,
    String(SIZE),
  );
  const at = bench.makeDirectory('mnt');
  expect(bench.imgfuse('mount', image, at, '--workers', '4')).toMatchObject({ code: 0 });

  // every other piece, each written once, in random order, sixteen at a time
  const random = seededRandom(Number(process.env['SEED'] ?? 1));
  const pieces: [start: number, length: number][] = [];
  for (let start = 0, n = 0; start < SIZE; n++) {
    const length = Math.min(SIZE - start, PIECES[n % PIECES.length]! * SECTOR);
    if (random() < 0.6) pieces.push([start, length]);
    start += length;
  }
  pieces.sort(() => random() - 0.5);
  const file = await open(join(at, 'disk.raw'), 'r+');
  try {
    const queue = pieces.values();
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        for (const [start, length] of queue) {
          const bytes = Buffer.alloc(length, 1 + ((start / SECTOR) % 255));
          bytes.copy(model, start);
          expect((await file.write(bytes, 0, length, start)).bytesWritten).toBe(length);
        }
      }),
    );
    await file.sync();
  } finally {
    await file.close();
  }
  expect(bench.imgfuse('unmount', at)).toMatchObject({ code: 0 });
  qemuCheck(image, 'qcow2');
  const raw = bench.path('seen.raw');
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
  const seen = await open(raw);
  const bytes = Buffer.alloc(SIZE);
  await seen.read(bytes, 0, SIZE, 0);
  await seen.close();
  expect(firstDifference(bytes, model)).toBe('none');
});
