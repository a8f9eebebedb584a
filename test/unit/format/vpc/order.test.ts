// The order of the host operations of a VHD where the random workloads of the crash model hardly ever come: blocks of another program
// that are here in parts, the two footers of a new size, and the end of the file at a close.

import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { distinctCrashStates } from '../../../support/crash-states.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { MIXED_SECTORS, vhdImage } from '../../../support/vhd-bytes.ts';
import { FaultyHostFile, type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const SECTOR = 512;
const BLOCK = 4096;
/** Of the third block of an image of MIXED_SECTORS: its bitmap has neither this sector nor the next one. */
const CLEAR = 20;

const placesOf = (log: readonly RecordedOperation[]) =>
  log.map(({ operation, offset, length }) => (operation === 'sync' ? 'sync' : [operation, offset, length]));

test('a write to a block that is here in parts is durable before the bits say so (R6)', () => {
  const file = new RecordingHostFile(new MemoryHostFile(vhdImage({ sectors: MIXED_SECTORS }).image));
  const disk = openImage(vpc, file);
  const hole = disk.map(guestOffset(CLEAR * SECTOR), BLOCK);
  expect(hole).toMatchObject({ status: 'zero', length: 2 * SECTOR });
  const data = disk.map(guestOffset((CLEAR - 1) * SECTOR), SECTOR).hostOffset! + SECTOR;
  const bitmap = data - (CLEAR % 8) * SECTOR - SECTOR;
  file.log.length = 0;
  disk.write(Buffer.alloc(SECTOR, 7), 0, SECTOR, guestOffset(CLEAR * SECTOR));
  disk.flush();
  expect(placesOf(file.log)).toEqual([['write', data, hole.length], 'sync', ['write', bitmap, SECTOR], 'sync']);
});

test('a close puts the footer behind the last block, durably, before it cuts the file there (R7)', () => {
  const file = new RecordingHostFile(createMemoryImage(vpc, 8 * BLOCK, { block_size: '4k' }));
  const disk = openImage(vpc, file);
  disk.write(Buffer.alloc(BLOCK, 7), 0, BLOCK, guestOffset(0));
  disk.flush();
  file.log.length = 0;
  disk.close();
  const end = file.size();
  expect(placesOf(file.log)).toEqual([['write', end - SECTOR, SECTOR], 'sync', ['truncate', end, 0], 'sync']);
});

test('a close that finds no space for the footer cuts the file first, and the old footer gives its space to the new one', () => {
  const made = createMemoryImage(vpc, 8 * BLOCK, { block_size: '4k' });
  let isFull = false;
  const file = new RecordingHostFile(
    new FaultyHostFile(made, (operation) => {
      if (operation === 'truncate') isFull = false;
      return isFull && operation === 'write' ? ERRNO.ENOSPC : null;
    }),
  );
  const disk = openImage(vpc, file);
  disk.write(Buffer.alloc(BLOCK, 7), 0, BLOCK, guestOffset(0));
  disk.flush();
  file.log.length = 0;
  isFull = true;
  disk.close();
  const end = made.size();
  const footer = ['write', end - SECTOR, SECTOR];
  expect(placesOf(file.log)).toEqual([footer, ['truncate', end, 0], footer, 'sync']);
  expect(checkImage(vpc, made, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
});

test.each([
  ['larger', 8, 12],
  ['smaller', 8, 3],
])('a power cut while a disk becomes %s leaves footers that a read-write open takes, of either size (R7)', (_, from, to) => {
  const start = createMemoryImage(vpc, from * BLOCK, { block_size: '4k' });
  const disk = openImage(vpc, start);
  disk.write(Buffer.alloc(2 * BLOCK, 7), 0, 2 * BLOCK, guestOffset(0));
  disk.close();
  const recording = new RecordingHostFile(start.clone());
  const resized = openImage(vpc, recording);
  resized.resize(to * BLOCK);
  resized.close();
  const sizes = new Set<number>();
  for (const { state, subset, moment } of distinctCrashStates(start, recording.log, seededRandom(1))) {
    const found = openImage(vpc, state);
    const content = Buffer.alloc(found.virtualSize());
    found.read(content, 0, content.length, guestOffset(0));
    const where = `moment ${moment}, subset ${subset.toString()}`;
    expect(content.equals(Buffer.alloc(content.length).fill(7, 0, 2 * BLOCK)), where).toBe(true);
    found.close();
    expect(checkImage(vpc, state, { repair: 'none', log: () => undefined }).corruptions, where).toBe(0);
    sizes.add(content.length / BLOCK);
  }
  expect([...sizes].sort()).toEqual([from, to].sort());
});
