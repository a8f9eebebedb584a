import { afterEach, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const { giveWay } = Mutex.prototype;
afterEach(() => {
  Mutex.prototype.giveWay = giveWay;
});

const BLOCK = 4096;

test('a write behind the old end is refused while the disk grows over a longer parent, until it has grown', () => {
  const parentFile = createMemoryImage(vdi, 4000 * BLOCK, { block_size: '4k' });
  const filled = openImage(vdi, parentFile);
  filled.write(new Uint8Array(16).fill(3), 0, 16, guestOffset(3000 * BLOCK));
  filled.close();
  const parent = openImage(vdi, parentFile, { readOnly: true });
  const file = createMemoryImage(vdi, BLOCK, { block_size: '4k' }, 'parent.vdi');
  const one = openImage(vdi, file, { backing: parent, slots: 2, tableCacheBytes: 1 << 20 });
  const two = vdi.attach(file, one.share(), { backing: parent, extents: [], log: () => undefined, slot: 1 });
  let error: unknown = null;
  let isDone = false;
  Mutex.prototype.giveWay = () => {
    if (isDone) return;
    isDone = true;
    try {
      two.write(new Uint8Array(512).fill(9), 0, 512, guestOffset(2500 * BLOCK));
      two.flush();
    } catch (caught) {
      error = caught;
    }
  };
  one.resize(4000 * BLOCK);
  Mutex.prototype.giveWay = giveWay;
  expect(isDone).toBe(true);
  expect(error).toMatchObject({ kind: 'limit' });
  const bytes = new Uint8Array(512);
  one.read(bytes, 0, 512, guestOffset(2500 * BLOCK));
  expect(bytes[0]).toBe(0);
});
