// Random operations on qcow2 images that qemu-img made, against a byte array: every version, small clusters, every width of
// reference counts, with a backing file, internal snapshots, compressed clusters and encryption. qemu-img check judges every
// image that is left behind, and the snapshots must keep their bytes.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { steadyMs } from '../../src/concurrency/clock.ts';
import type { WritableImage } from '../../src/format/image-format.ts';
import { readHeader } from '../../src/format/qcow2/header/read-header.ts';
import { openQcow2 } from '../../src/format/qcow2/open/open.ts';
import { raw } from '../../src/format/raw/index.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { openImage } from '../support/memory-images.ts';
import { qemuImg as qemuImgAnywhere } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const SIZE = 1024 * 1024 + 3 * 512;
const RUNS = sliceOf('interop', 'qcow2');
const STEPS = 60;

const VARIANTS = [
  { name: 'v3, 64 KiB', options: '' },
  { name: 'v2, 4 KiB', options: 'compat=0.10,cluster_size=4k' },
  { name: 'v3, 4 KiB', options: 'cluster_size=4k' },
  { name: 'v3, 512 bytes', options: 'cluster_size=512' },
  { name: 'v2, 512 bytes', options: 'compat=0.10,cluster_size=512' },
  ...[1, 2, 4, 8, 32, 64].map((bits) => ({
    name: `v3, 512 bytes, ${bits}-bit counts`,
    options: `cluster_size=512,refcount_bits=${bits}`,
  })),
  { name: 'v3, 4 KiB, 1-bit counts', options: 'cluster_size=4k,refcount_bits=1' },
  { name: 'extended L2, 16 KiB', options: 'cluster_size=16k,extended_l2=on' },
  { name: 'extended L2, 64 KiB, 1-bit counts', options: 'cluster_size=64k,extended_l2=on,refcount_bits=1' },
] as const;
const EXTRAS = ['plain', 'backing', 'snapshot', 'compressed', 'luks', 'aes', 'aes with backing'] as const;
type Extra = (typeof EXTRAS)[number];

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));

const PASSWORD = 'geheim';
const SECRET = ['--object', `secret,id=s,data=${PASSWORD}`];

function isEncrypted(extra: Extra): boolean {
  return extra === 'luks' || extra.startsWith('aes');
}

function qemuImg(...parameters: readonly string[]): string {
  return execFileSync('qemu-img', parameters, { cwd: folder, encoding: 'utf8' });
}

/** Data that compresses, with holes. */
function pattern(): Uint8Array {
  return new Uint8Array(SIZE).map((_, i) => (i % 200_000 < 90_000 ? 1 + ((i >> 10) % 250) : 0));
}

/** Empty LUKS images for each set of options: one takes qemu-img seconds of CPU time, whatever its iter-time. */
const luksImages = new Map<string, Uint8Array>();

/** An image made by qemu-img, and what it reads as. */
function make(
  options: string,
  extra: Extra,
): { bytes: Uint8Array; content: Uint8Array; backing: WritableImage | null } {
  const encryption = `encrypt.format=${extra.slice(0, 4).trim()},encrypt.key-secret=s${extra === 'luks' ? ',encrypt.iter-time=10' : ''}`;
  const all = [options, isEncrypted(extra) ? encryption : ''].filter((text) => text !== '').join(',');
  const o = [...(isEncrypted(extra) ? SECRET : []), ...(all === '' ? [] : ['-o', all])];
  const content = extra === 'plain' || extra === 'luks' || extra === 'aes' ? new Uint8Array(SIZE) : pattern();
  writeFileSync(join(folder, 'base.raw'), content);
  let backing: WritableImage | null = null;
  if (extra.endsWith('backing')) {
    qemuImg('create', '-q', '-f', 'qcow2', ...o, '-b', 'base.raw', '-F', 'raw', 'disk.qcow2');
    backing = openImage(raw, new MemoryHostFile(content, '/base'));
  } else if (luksImages.has(all)) {
    writeFileSync(join(folder, 'disk.qcow2'), luksImages.get(all)!);
  } else if (extra === 'plain' || isEncrypted(extra)) {
    qemuImgAnywhere('create', '-q', '-f', 'qcow2', ...o, join(folder, 'disk.qcow2'), String(SIZE));
  } else {
    qemuImg(
      'convert',
      ...(extra === 'compressed' ? ['-c'] : []),
      '-f',
      'raw',
      '-O',
      'qcow2',
      ...o,
      'base.raw',
      'disk.qcow2',
    );
    if (extra === 'snapshot') qemuImg('snapshot', '-c', 'first', 'disk.qcow2');
  }
  const bytes = readFileSync(join(folder, 'disk.qcow2'));
  if (extra === 'luks') luksImages.set(all, bytes);
  return { bytes, content, backing };
}

function open(file: MemoryHostFile, backing: WritableImage | null): WritableImage {
  const header = readHeader(file, { readOnly: false });
  return openQcow2(
    file,
    header,
    {},
    {
      readOnly: false,
      openBacking: () => backing!,
      password: () => new TextEncoder().encode(PASSWORD),
      log: (sentence) => {
        throw new Error(sentence);
      },
      tableCacheBytes: 8192,
      slots: 1,
      probed: false,
    },
  );
}

function check(file: MemoryHostFile): void {
  writeFileSync(join(folder, 'disk.qcow2'), file.bytes());
  expect(qemuImg('check', '-q', ...SECRET, '--image-opts', imageOptions(file))).toBe('');
}

function imageOptions(file: MemoryHostFile): string {
  const isEncryptedImage = readHeader(file, { readOnly: true }).cryptMethod !== 0;
  return `driver=qcow2,file.filename=disk.qcow2${isEncryptedImage ? ',encrypt.key-secret=s' : ''}`;
}

function expectEqual(image: WritableImage, model: Uint8Array): void {
  const bytes = new Uint8Array(model.length).fill(0xee);
  image.read(bytes, 0, bytes.length, guestOffset(0));
  const differs = Buffer.compare(bytes, model) === 0 ? -1 : bytes.findIndex((byte, i) => byte !== model[i]);
  expect(differs, 'first byte that differs').toBe(-1);
}

/** One random change of image and model. */
function step(image: WritableImage, model: Uint8Array, random: () => number): void {
  const at = Math.floor(random() * (random() < 0.5 ? 100_000 : model.length));
  const length = Math.min(model.length - at, 1 + Math.floor(random() * (random() < 0.7 ? 6_000 : 150_000)));
  const pick = random();
  if (pick < 0.55) {
    const byte = 1 + Math.floor(random() * 255);
    model.fill(byte, at, at + length);
    image.write(new Uint8Array(length).fill(byte), 0, length, guestOffset(at));
  } else if (pick < 0.8) {
    model.fill(0, at, at + length);
    if (random() < 0.5) image.discard(guestOffset(at), length);
    else image.writeZeroes(guestOffset(at), length);
  } else if (pick < 0.95) {
    image.flush();
  } else {
    image.maintain(steadyMs() + 1000);
  }
}

describe.each(VARIANTS)('qcow2 $name', ({ options }) => {
  test.each(EXTRAS)('random operations on an image made by qemu-img: %s', { timeout: 300_000 }, (extra) => {
    for (let run = 0; run < RUNS; run++) runOnce(options, extra, seededRandom(run * 1000 + Date.now()));
  });
});

function runOnce(options: string, extra: Extra, random: () => number): void {
  // a snapshot needs counts above 1
  if (extra === 'snapshot' && options.includes('refcount_bits=1')) return;
  // guest data knows nothing of counters
  if (isEncrypted(extra) && options.includes('refcount_bits')) return;
  const { bytes, content, backing } = make(options, extra);
  const file = new MemoryHostFile(bytes, join(folder, 'disk.qcow2'));
  const model = content.slice();
  let image = open(file, backing);
  expectEqual(image, model);
  for (let n = 0; n < STEPS; n++) {
    step(image, model, random);
    expectEqual(image, model);
    if (random() < 0.05) {
      image.close();
      check(file);
      image = open(file, backing);
    }
  }
  image.close();
  check(file);
  expectEqual(open(file, backing), model);
  writeFileSync(join(folder, 'model.raw'), model);
  const pair = ['driver=raw,file.filename=model.raw', imageOptions(file)];
  expect(qemuImg('compare', '-q', ...SECRET, '--image-opts', ...pair)).toBe('');
  if (extra !== 'snapshot') return;
  qemuImg('convert', '-l', 'snapshot.name=first', '-f', 'qcow2', '-O', 'raw', 'disk.qcow2', 'snapshot.raw');
  expect(Buffer.compare(readFileSync(join(folder, 'snapshot.raw')).subarray(0, SIZE), content), 'the snapshot').toBe(0);
}

test('the tests above need qemu-img', (context) => {
  requireOrSkip(context, hasCommand('qemu-img'), 'qemu-img');
});
