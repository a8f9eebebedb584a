import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { factsOfParent, openImage } from '../../../support/memory-images.ts';
import { vhdImage } from '../../../support/vhd-bytes.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const BLOCK = 4096;

test('rebase -u puts nothing where a block lies whose removal may not be durable (R5)', () => {
  // blocks one behind the other, as most programs lay them
  const sectors = Array.from({ length: 32 }, (_, n) => Math.floor(n / 8) + 1);
  const start = new MemoryHostFile(vhdImage({ sectors }).image);
  const file = new RecordingHostFile(start.clone());
  // a discard, and the process is killed: nothing was synced
  openImage(vpc, file).discard(guestOffset(BLOCK), BLOCK);
  const before = file.log.length;
  vpc.setBacking!(file, { name: 'parent.raw', format: 'raw' }, factsOfParent('parent.raw', 4 * BLOCK));
  const firstSync = file.log.findIndex(({ operation }) => operation === 'sync');
  // the power goes before that: the writes of the rebase have reached the disk, the removal has not
  const crashed = start.clone();
  for (const { operation, offset, data } of file.log.slice(before, firstSync)) {
    if (operation === 'write') crashed.write(data!, 0, data!.length, hostOffset(offset));
  }
  const after = openImage(vpc, crashed, { readOnly: true });
  const bytes = Buffer.alloc(BLOCK);
  after.read(bytes, 0, BLOCK, guestOffset(BLOCK));
  const isOld = bytes.equals(Buffer.alloc(BLOCK, 2));
  expect(isOld || bytes.equals(Buffer.alloc(BLOCK))).toBe(true);
});
