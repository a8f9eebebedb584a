import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { FaultyHostFile } from '../../../support/wrapping-files.ts';

const BLOCK = 4096;

test('a close that had no space for an entry while it moved blocks leaves nothing that the next close does not mend', () => {
  const made = createMemoryImage(vdi, 64 * BLOCK, { block_size: '4k' });
  let isClosing = false;
  let links = 0;
  const file = new FaultyHostFile(made, (operation, _count, _offset, length) =>
    isClosing && operation === 'write' && length === 4 && ++links === 2 ? ERRNO.ENOSPC : null,
  );
  const disk = openImage(vdi, file);
  for (let n = 0; n < 8; n++) disk.write(new Uint8Array(BLOCK).fill(n + 1), 0, BLOCK, guestOffset(n * BLOCK));
  disk.flush();
  disk.discard(guestOffset(0), 3 * BLOCK);
  disk.flush();
  disk.flush();
  disk.makeClean();
  isClosing = true;
  disk.close();
  const facts = disk.closedFacts!();
  isClosing = false;
  const next = openImage(vdi, made, { closedFacts: facts ?? undefined });
  next.write(new Uint8Array(BLOCK).fill(9), 0, BLOCK, guestOffset(7 * BLOCK));
  next.close();
  const { leaks, corruptions } = checkImage(vdi, made, { repair: 'none', log: () => undefined });
  expect({ leaks, corruptions, links: links >= 2 }).toEqual({ leaks: 0, corruptions: 0, links: true });
});
