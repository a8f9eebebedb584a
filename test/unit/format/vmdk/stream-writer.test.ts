// The writer of streamed extents: what it writes reads as what it was given, and only a finished file is an image.

import { expect, test } from 'vitest';
import { stream } from '../../../../src/format/vmdk/stream/index.ts';
import { StreamWriter } from '../../../../src/format/vmdk/stream/writer.ts';
import { isSame, openExtent, readAll } from '../../../support/extents.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { seededRandom } from '../../../support/random.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const GRAIN = 65536;
const OPTIONS = { descriptor: '# Disk DescriptorFile\n', descriptorBytes: 20 * 512 };

function contentOf(bytes: number, seed: number): Buffer {
  const random = seededRandom(seed);
  const disk = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += GRAIN) {
    const kind = random();
    const grain = disk.subarray(at, at + GRAIN);
    if (kind < 0.3) grain.fill(1 + Math.floor(random() * 255));
    else if (kind < 0.5) for (let i = 0; i < grain.length; i++) grain[i] = Math.floor(random() * 256);
  }
  return disk;
}

function written(disk: Buffer, isFinished = true) {
  const file = new RecordingHostFile(new MemoryHostFile(new Uint8Array(0), '/disk.vmdk'));
  const writer = new StreamWriter(file, { ...OPTIONS, capacity: disk.length });
  for (let at = 0; at < disk.length; at += GRAIN) writer.writeGrain(at / GRAIN, disk.subarray(at, at + GRAIN));
  if (isFinished) writer.finish();
  return file;
}

const open = (file: RecordingHostFile) => {
  const bytes = new Uint8Array(file.size());
  file.read(bytes, 0, bytes.length, 0 as never);
  return openExtent(stream, new MemoryHostFile(bytes, '/disk.vmdk', true), { readOnly: true });
};

test.each([
  [1, 40 * GRAIN],
  [2, 40 * GRAIN + 1536],
  [3, 512],
])('a disk reads as it was written (%i)', (seed, bytes) => {
  const disk = contentOf(bytes, seed);
  const image = open(written(disk));
  expect(isSame(readAll(image), disk)).toBe(true);
  expect(stream.inspect(image.file)).toMatchObject({ capacity: bytes, descriptor: { offset: 512, length: 10240 } });
});

test('tables without grains are left out, and so are grains of zeros', () => {
  const capacity = 3 * 512 * GRAIN;
  const file = new RecordingHostFile(new MemoryHostFile(new Uint8Array(0), '/disk.vmdk'));
  const writer = new StreamWriter(file, { ...OPTIONS, capacity });
  writer.writeGrain(7, Buffer.alloc(GRAIN, 5));
  writer.writeGrain(8, Buffer.alloc(GRAIN));
  writer.writeGrain(1100, Buffer.alloc(GRAIN, 6));
  writer.finish();
  const image = open(file);
  expect(image.allocatedBytes()).toBe(2 * GRAIN);
  const bytes = Buffer.alloc(1);
  image.read(bytes, 0, 1, (1100 * GRAIN) as never);
  expect(bytes[0]).toBe(6);
  expect(file.size()).toBeLessThan(4 * GRAIN);
});

test('every byte is written once, from the beginning to the end, and made durable', () => {
  const { log } = written(contentOf(20 * GRAIN, 4));
  let end = 0;
  for (const { operation, offset, length } of log.slice(0, -1)) {
    expect([operation, offset]).toEqual(['write', end]);
    end += length;
  }
  expect(log.at(-1)!.operation).toBe('sync');
});

test('a file that was not finished is no image', () => {
  expect(() => open(written(contentOf(20 * GRAIN, 5), false))).toThrow(/no footer is there/);
});

test('an order that is not the one of the disk is a bug', () => {
  const writer = new StreamWriter(new MemoryHostFile(), { ...OPTIONS, capacity: 10 * GRAIN });
  writer.writeGrain(3, Buffer.alloc(GRAIN, 1));
  expect(() => writer.writeGrain(2, Buffer.alloc(GRAIN, 1))).toThrow(/assertion failed/);
  expect(() => writer.writeGrain(4, Buffer.alloc(100, 1))).toThrow(/a grain is whole/);
  expect(() => writer.writeGrain(10, Buffer.alloc(GRAIN, 1))).toThrow(/assertion failed/);
});

test('a disk whose directory is too long is refused', () => {
  expect(() => new StreamWriter(new MemoryHostFile(), { ...OPTIONS, capacity: 2 ** 51 })).toThrow(
    /too large for one streamed extent/,
  );
});
