import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const BLOCK = 65536;
const STRIDE = 69632;
const LIMIT = 2 ** 32 * 512;

test('no block is put where its entry of 32 bits cannot lead', () => {
  const file = createMemoryImage(vpc, 2 ** 40, { block_size: '64k' });
  const first = openImage(vpc, file);
  first.write(new Uint8Array(BLOCK).fill(1), 0, BLOCK, guestOffset(0));
  const data = first.map(guestOffset(0), 512).hostOffset!;
  first.close();
  // the same block at the last place but one of its grid below 2 TiB: a file that a full disk in small blocks leads to
  const table = 512 + 1024;
  const old = data - 512;
  const place = old + (Math.floor((LIMIT - old) / STRIDE) - 2) * STRIDE;
  const block = new Uint8Array(BLOCK + 512);
  file.read(block, 0, block.length, hostOffset(old));
  file.write(block, 0, block.length, hostOffset(place));
  file.punchHole(hostOffset(old), block.length);
  const footer = new Uint8Array(512);
  file.read(footer, 0, 512, hostOffset(0));
  file.write(footer, 0, 512, hostOffset(place + block.length));
  const word = Buffer.alloc(4);
  word.writeUInt32BE(place / 512);
  file.write(word, 0, 4, hostOffset(table));

  const disk = openImage(vpc, file);
  const written: number[] = [];
  // without the gaps, which are used first after two flushes
  for (let n = 1; n < 6; n++) {
    try {
      disk.write(new Uint8Array(512).fill(n + 1), 0, 512, guestOffset(n * BLOCK));
      written.push(n);
    } catch (error) {
      console.log(n, (error as Error).message);
    }
  }
  console.log(written);
  const bytes = new Uint8Array(512);
  for (const n of written) {
    disk.read(bytes, 0, 512, guestOffset(n * BLOCK));
    expect([n, bytes[0]]).toEqual([n, n + 1]);
  }
  disk.close();
});
