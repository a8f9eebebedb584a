import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const BLOCK = 4096;
const fill = (value: number) => new Uint8Array(BLOCK).fill(value);

test('a grow does not free a block of the disk, whatever an entry behind the old end says', () => {
  const file = createMemoryImage(vpc, 16 * BLOCK, { block_size: '4k' });
  const first = openImage(vpc, file);
  first.write(fill(1), 0, BLOCK, guestOffset(0));
  first.resize(8 * BLOCK);
  first.close();
  // another program has left an entry behind the end that leads beyond the end of the file
  const length = file.size();
  const table = 512 + 1024;
  const word = Buffer.alloc(4);
  file.read(word, 0, 4, hostOffset(table));
  const place = word.readUInt32BE(0) + 16; // the next place of the grid: 8 KiB further
  word.writeUInt32BE(place);
  file.write(word, 0, 4, hostOffset(table + 12 * 4));
  expect(place * 512 + 512 + BLOCK).toBeGreaterThan(length - 512);

  const disk = openImage(vpc, file);
  for (let block = 1; block < 4; block++) disk.write(fill(block + 1), 0, BLOCK, guestOffset(block * BLOCK));
  disk.flush();
  disk.resize(16 * BLOCK);
  disk.flush();
  disk.flush();
  disk.close();
  const again = openImage(vpc, file.clone(true), { readOnly: true });
  const bytes = new Uint8Array(1);
  for (let block = 0; block < 4; block++) {
    again.read(bytes, 0, 1, guestOffset(block * BLOCK));
    expect([block, bytes[0]]).toEqual([block, block + 1]);
  }
});
