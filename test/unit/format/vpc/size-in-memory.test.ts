import { expect, test } from 'vitest';
import { ERRNO } from '../../../../src/errors/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { FaultyHostFile } from '../../../support/wrapping-files.ts';

test('after a resize for which the host had no space at the end, memory says what the file says (R8)', () => {
  const made = createMemoryImage(vpc, 8 * 4096, { block_size: '4k' });
  let footers = 0;
  const file = new FaultyHostFile(made, (operation, _count, offset) =>
    operation === 'write' && offset === made.size() - 512 && ++footers === 2 ? ERRNO.ENOSPC : null,
  );
  const disk = openImage(vpc, file);
  disk.resize(12 * 4096);
  expect(footers).toBe(2);
  expect(disk.failure()).toBe(null);
  const found = openImage(vpc, made.clone(true), { readOnly: true }).virtualSize();
  expect(disk.virtualSize()).toBe(found);
});
