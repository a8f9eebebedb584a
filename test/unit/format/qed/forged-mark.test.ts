// A damaged QED image that somebody vouches for is not walked. What a walk refuses is then met by the request that runs into it.

import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { factsOf } from '../../../support/closed-facts.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const CLUSTER = 4096;

test('two entries for one cluster turn the image read-only when both are discarded, and it stays marked', () => {
  const file = createMemoryImage(qed, 1024 * 1024, { cluster_size: '4k', table_size: '1' });
  const image = openImage(qed, file);
  image.write(new Uint8Array(2 * CLUSTER).fill(7), 0, 2 * CLUSTER, guestOffset(0));
  image.close();
  const closedFacts = factsOf(image);
  // the L1 table is the second cluster
  const table = Number(new DataView(bytesAt(CLUSTER, 8).buffer).getBigUint64(0, true));
  file.write(bytesAt(table, 8), 0, 8, hostOffset(table + 8));
  expect(() => openImage(qed, file)).toThrow('clusters used twice');

  const forged = openImage(qed, file, { closedFacts });
  forged.discard(guestOffset(0), CLUSTER);
  expect(() => forged.discard(guestOffset(CLUSTER), CLUSTER)).toThrow(expect.objectContaining({ kind: 'corrupt' }));
  expect(forged.failure()).toContain('two entries refer to host cluster');
  expect(() => forged.write(new Uint8Array(1), 0, 1, guestOffset(0))).toThrow('turned read-only');
  expect(() => forged.close()).toThrow();
  expect(bytesAt(16, 1)[0]! & 2).toBe(2);

  function bytesAt(at: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    file.read(bytes, 0, length, hostOffset(at));
    return bytes;
  }
});
