import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { plainParallels } from '../../../support/plain-parallels.ts';
import { FaultyHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 4096;

test('a cluster that was freed where a longer BAT comes to lie, and that the host did not punch yet, is not punched later', () => {
  const made = createMemoryImage(plainParallels, 64 * CLUSTER, { cluster_size: '4k' });
  let isFull = false;
  const file = new FaultyHostFile(made, (operation) => (isFull && operation === 'punch-hole' ? ERRNO.ENOSPC : null));
  const disk = openImage(plainParallels, file);
  for (let i = 0; i < 4; i++) disk.write(new Uint8Array(CLUSTER).fill(i + 1), 0, CLUSTER, guestOffset(i * CLUSTER));
  disk.flush();
  // the first cluster of the file is freed, and the host has no space to make it a hole
  disk.discard(guestOffset(0), CLUSTER);
  isFull = true;
  let refused = false;
  try {
    disk.resize(2000 * CLUSTER);
  } catch {
    refused = true;
  }
  isFull = false;
  if (!refused) {
    // an entry in the part of the BAT that lies there
    disk.write(new Uint8Array(CLUSTER).fill(9), 0, CLUSTER, guestOffset(1500 * CLUSTER));
    disk.flush();
    disk.write(new Uint8Array(512).fill(2), 0, 512, guestOffset(CLUSTER));
    disk.flush();
    disk.write(new Uint8Array(512).fill(2), 0, 512, guestOffset(CLUSTER));
    disk.flush();
  }
  // the process is killed
  const again = openImage(plainParallels, made.clone(true), { readOnly: true });
  const bytes = new Uint8Array(512);
  again.read(bytes, 0, 512, guestOffset((refused ? 1 : 1500) * CLUSTER));
  expect(bytes[0]).toBe(refused ? 2 : 9);
});
