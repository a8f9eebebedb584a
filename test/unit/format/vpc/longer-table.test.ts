import { afterEach, expect, test } from 'vitest';
import { TableSlices } from '../../../../src/format/mapped/table-slices.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const { forget } = TableSlices.prototype;
afterEach(() => {
  TableSlices.prototype.forget = forget;
});

test('a longer table changes the shared cache under the metadata lock only (R1)', () => {
  const file = createMemoryImage(vpc, 128 * 4096, { block_size: '4k' });
  const disk = openImage(vpc, file);
  const words = new Int32Array((disk.share().state as { readonly words: SharedArrayBuffer }).words);
  const held: boolean[] = [];
  TableSlices.prototype.forget = function (...args) {
    held.push(Atomics.load(words, 0) !== 0);
    forget.apply(this, args);
  };
  disk.resize(1024 * 4096);
  expect(held).toEqual([true]);
});
