// A limit for streams that consist of blocks: one with tables costs time even if it produces almost nothing.

import { DamagedData } from './damaged-data.ts';

const FREE_BLOCKS = 64;
const MIN_BYTES_PER_BLOCK = 128;

/** @param blocks that came before @param length bytes of the whole output @throws DamagedData if that is one too many */
export function assertProductive(blocks: number, length: number): void {
  if (blocks < FREE_BLOCKS + length / MIN_BYTES_PER_BLOCK) return;
  throw new DamagedData(`is split into more than ${blocks} blocks for ${length} bytes`);
}
