import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const BLOCK = 4096;
const BLOCKS = 8192 + 128;

test('a block that is written while a grow makes room for a longer table keeps its data', () => {
  const file = createMemoryImage(vpc, BLOCKS * BLOCK, { block_size: '4k' });
  let atSync = (): void => undefined;
  file.sync = () => atSync();
  const one = openImage(vpc, file, { slots: 2, tableCacheBytes: 1 << 20 });
  const two = vpc.attach(file, one.share(), { backing: null, extents: [], log: () => undefined, slot: 1 });
  // as many blocks as the room that the first one has made, but for one
  const data = new Uint8Array(BLOCK).fill(5);
  one.write(data, 0, BLOCK, guestOffset(0));
  const room = file.size();
  let next = 1;
  const stride = 8192;
  for (; one.map(guestOffset((next - 1) * BLOCK), 512).hostOffset! + 2 * stride + BLOCK < room - 512; next++)
    one.write(data, 0, BLOCK, guestOffset(next * BLOCK));
  expect(file.size()).toBe(room);
  one.flush();
  let written = false;
  atSync = () => {
    if (written || file.size() === room) return;
    written = true;
    // another thread, into the block that there is room for
    two.write(new Uint8Array(BLOCK).fill(9), 0, BLOCK, guestOffset(next * BLOCK));
  };
  let error: unknown = null;
  try {
    one.resize(4 * BLOCKS * BLOCK);
  } catch (caught) {
    error = caught;
  }
  expect(written).toBe(true);
  const bytes = new Uint8Array(BLOCK);
  one.read(bytes, 0, BLOCK, guestOffset(next * BLOCK));
  expect([bytes[0], error]).toEqual([9, null]);
});
