// Where the data of a raw image is: the host is asked once for a run of data in a file that is only read.

import { expect, test } from 'vitest';
import { guestOffset, type HostOffset, hostOffset } from '../../../src/bytes/offsets.ts';
import { raw } from '../../../src/format/raw/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { openImage } from '../../support/memory-images.ts';

const MIB = 2 ** 20;

class AskedFile extends MemoryHostFile {
  asked = 0;

  override seekData(offset: HostOffset): number {
    this.asked++;
    return super.seekData(offset);
  }

  override seekHole(offset: HostOffset): number {
    this.asked++;
    return super.seekHole(offset);
  }
}

function sparseFile(readOnly: boolean): AskedFile {
  const file = new AskedFile();
  file.truncate(4 * MIB);
  for (const at of [MIB, 3 * MIB]) file.write(new Uint8Array(MIB).fill(1), 0, MIB, hostOffset(at));
  return Object.assign(file, { readOnly });
}

test.each([true, false])('a run of data is found from any place in it (read-only: %s)', (readOnly) => {
  const image = openImage(raw, sparseFile(readOnly), { readOnly });
  for (const at of [0, MIB, MIB + 4096, 2 * MIB - 512, 2 * MIB, 3 * MIB, MIB + 512]) {
    const isData = at === 3 * MIB || (at >= MIB && at < 2 * MIB);
    const length = MIB - (at % MIB);
    expect(image.map(guestOffset(at), 4 * MIB - at)).toMatchObject({
      start: at,
      length,
      status: isData ? 'data' : 'zero',
    });
    expect(image.map(guestOffset(at), 512)).toMatchObject({ start: at, length: 512 });
  }
});

test('the host is asked once for a run of a file that is only read', () => {
  const file = sparseFile(true);
  const image = openImage(raw, file, { readOnly: true });
  file.asked = 0;
  for (let at = MIB; at < 2 * MIB; at += 4096) expect(image.mapStatus(guestOffset(at), 4096).status).toBe('data');
  expect(file.asked).toBe(2);
});
