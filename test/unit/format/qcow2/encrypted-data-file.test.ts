// In an encrypted data file a hole does not read as zeros, so that what is discarded keeps its bytes until its entry is gone.

import { afterEach, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { listenToFailpoints } from '../../../../src/concurrency/failpoints.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const CLUSTER = 65536;
const PASSWORD = 'secret';

afterEach(() => listenToFailpoints(null));

/** The different bytes of the first cluster. */
function bytesOf(image: WritableImage): number[] {
  const bytes = new Uint8Array(CLUSTER);
  image.read(bytes, 0, CLUSTER, guestOffset(0));
  return [...new Set(bytes)];
}

function makeImage(): { file: MemoryHostFile; dataFile: MemoryHostFile; image: WritableImage } {
  const dataFile = new MemoryHostFile(new Uint8Array(0), '/data');
  const file = createMemoryImage(
    qcow2,
    4 * CLUSTER,
    { data_file: 'data', 'encrypt.format': 'luks', 'encrypt.iter-time': '1' },
    undefined,
    { dataFile, password: PASSWORD },
  );
  const image = openImage(qcow2, file, { dataFile, password: PASSWORD });
  image.write(new Uint8Array(CLUSTER).fill(0x41), 0, CLUSTER, guestOffset(0));
  image.flush();
  return { file, dataFile, image };
}

test.each(['discard', 'writeZeroes'] as const)('a power cut after %s shows the old data or zeros', (change) => {
  const { file, dataFile, image } = makeImage();
  const before = file.clone();
  image[change](guestOffset(0), CLUSTER);
  expect(bytesOf(image)).toEqual([0]);
  const cut = openImage(qcow2, before, { dataFile: dataFile.clone(), password: PASSWORD, readOnly: true });
  expect(bytesOf(cut)).toEqual([0x41]);
});

test.each(['discard', 'writeZeroes'] as const)('%s that fails leaves the old data', (change) => {
  const { image } = makeImage();
  listenToFailpoints((failpoint) => {
    if (failpoint === 'l2-update') throw new Error('by the test');
  });
  expect(() => {
    image[change](guestOffset(0), CLUSTER);
    image.flush();
  }).toThrow();
  listenToFailpoints(null);
  expect([[0x41], [0]]).toContainEqual(bytesOf(image));
});
