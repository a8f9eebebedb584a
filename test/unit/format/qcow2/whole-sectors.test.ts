// A disk keeps or loses a sector as a whole. What the guest did not ask for in bytes must not tear one: neither what
// preallocation writes, nor a file that ends inside a sector whose growth a crash may take back.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { FaultyHostFile, RecordingHostFile } from '../../../support/wrapping-files.ts';

const SECTOR = 512;
const FIRST_DATA = 0x4000;

describe.each([{ cluster_size: '4k' }, { cluster_size: '16k', extended_l2: 'on' }])('with %o', (options) => {
  test('preallocation of zeros over discarded data writes whole sectors', () => {
    const recording = new RecordingHostFile(createMemoryImage(qcow2, 1 << 20, options));
    const image = openImage(qcow2, recording);
    image.write(new Uint8Array(6144).fill(5), 0, 6144, guestOffset(1024));
    image.flush();
    image.discard(guestOffset(1024), 6144);
    const begin = recording.log.length;
    image.preallocate(guestOffset(1100), 5000);
    const parts = recording.log.slice(begin).filter(({ offset }) => offset >= FIRST_DATA);
    for (const { operation, offset, length } of parts) {
      expect([operation, offset % SECTOR, length % SECTOR]).toEqual([operation, 0, 0]);
    }
    const data = new Uint8Array(16384);
    image.read(data, 0, data.length, guestOffset(0));
    expect(data).toEqual(new Uint8Array(16384));
    image.close();
  });

  test('the file never ends inside a sector that new data shares', () => {
    const file = createMemoryImage(qcow2, 1 << 20, options);
    const image = openImage(qcow2, file);
    for (const at of [100, 50_000, 333_333]) {
      image.write(new Uint8Array(77).fill(1), 0, 77, guestOffset(at));
      expect(file.size() % SECTOR).toBe(0);
    }
    image.close();
  });

  test('a clean close ends the file with a whole cluster, where the host lets it, and leaves what was not written as it is', () => {
    const file = createMemoryImage(qcow2, 1 << 20, options);
    // the L2 table, so that what comes later is data
    const first = openImage(qcow2, file);
    first.write(new Uint8Array(SECTOR), 0, SECTOR, guestOffset(0));
    first.close();
    for (const isFull of [true, false]) {
      let isClosing = false;
      const refuses = new FaultyHostFile(file, (operation) =>
        isFull && isClosing && operation === 'truncate' ? ERRNO.EFBIG : null,
      );
      const image = openImage(qcow2, refuses);
      const { clusterSize } = image;
      image.write(new Uint8Array(SECTOR).fill(1), 0, SECTOR, guestOffset((isFull ? 3 : 5) * clusterSize));
      isClosing = true;
      image.close();
      expect(file.size() % clusterSize === 0).toBe(!isFull);
      expect(checkImage(qcow2, file, { repair: 'none', log: () => undefined })).toMatchObject({
        ...{ corruptions: 0, leaks: 0 },
      });
      const before = file.fingerprint();
      openImage(qcow2, file).close();
      expect(file.fingerprint()).toBe(before);
    }
  });
});
