import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

test('a write that is under way while a fixed disk shrinks does not take its footer away', () => {
  const file = createMemoryImage(vpc, 64 * 1024, { subformat: 'fixed' });
  const disk = openImage(vpc, file);
  const { write } = file;
  let isFirst = true;
  file.write = (...args) => {
    if (isFirst) {
      isFirst = false;
      // another thread, between the look at the size and the write to the file
      disk.resize(16 * 1024);
    }
    write.apply(file, args);
  };
  disk.write(new Uint8Array(512).fill(7), 0, 512, guestOffset(32 * 1024));
  disk.close();
  file.write = write;
  expect(openImage(vpc, file).virtualSize()).toBe(16 * 1024);
});
