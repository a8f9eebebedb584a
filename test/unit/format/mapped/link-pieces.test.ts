// Thousands of links are written in pieces: no hold of the metadata lock has more than a piece of host operations, and what
// other requests do between two pieces is neither lost nor undone.

import { afterEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { listenToFailpoints } from '../../../../src/concurrency/failpoints.ts';
import type { WritableFormat, WritableImage } from '../../../../src/format/image-format.ts';
import { LINKS_PER_HOLD, WRITES_PER_HOLD } from '../../../../src/format/mapped/link-pieces.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { watchLockHolds } from '../../../support/lock-holds.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const CLUSTER = 4096;
const COUNT = 1000;
/** What an option calls a cluster. */
const UNITS: Readonly<Record<string, string>> = { vdi: 'block_size', vpc: 'block_size', vmdk: 'grain_size' };
/** Guest cluster of the n-th write: no two of them adjoin, so each has a link of its own. */
const clusterOf = (n: number) => 2 * n + 1;

afterEach(() => listenToFailpoints(null));

/** An overlay over a base full of 9s, so that links of QED wait as well, and a second object as another thread has it. */
function opened(format: WritableFormat) {
  const base = openImage(raw, new MemoryHostFile(new Uint8Array(2 * COUNT * CLUSTER).fill(9), '/base', true), {
    readOnly: true,
  });
  const file = createMemoryImage(
    format,
    4 * COUNT * CLUSTER,
    { [UNITS[format.name] ?? 'cluster_size']: String(CLUSTER) },
    '/base',
  );
  const holds = watchLockHolds(file);
  const image = openImage(format, holds.file, { backing: base, slots: 2, tableCacheBytes: 2 ** 20 });
  const other = format.attach(holds.file, image.share(), {
    ...{ slot: 1, backing: base, extents: [], log: () => undefined },
  });
  return { file, image, other, holds };
}

function write(image: WritableImage, cluster: number, value: number): void {
  image.write(new Uint8Array(CLUSTER).fill(value), 0, CLUSTER, guestOffset(cluster * CLUSTER));
}

function byteAt(image: WritableImage, cluster: number): number {
  const bytes = new Uint8Array(CLUSTER);
  image.read(bytes, 0, CLUSTER, guestOffset(cluster * CLUSTER));
  expect(new Set(bytes).size).toBe(1);
  return bytes[0]!;
}

describe.each([
  { format: qed },
  { format: qcow2 },
  { format: vdi },
  { format: vpc },
  { format: vmdk },
])('$format.name', ({ format }) => {
  test(`links at most ${LINKS_PER_HOLD} clusters, and makes ${WRITES_PER_HOLD} host writes, in one hold of the metadata lock, and a slice of a table at once`, () => {
    const { image, holds } = opened(format);
    // in an order that never goes on in the slice of the one before
    for (let n = 0; n < COUNT; n++) write(image, clusterOf((n * 397) % COUNT), (n % 200) + 1);
    holds.reset();
    let pauses = 0;
    listenToFailpoints((failpoint) => {
      if (failpoint === 'link-pause') pauses++;
    });
    image.flush();
    // each block of a VHD has a bitmap of its own
    const pieces = Math.ceil(COUNT / (format === vpc ? WRITES_PER_HOLD : LINKS_PER_HOLD));
    expect(pauses).toBe(pieces - 1);
    const slices = Math.ceil((2 * COUNT * 8) / CLUSTER);
    // each new table of QED is a store of its own, and so is its L1 entry
    const bitmaps = format === vpc ? COUNT : 0;
    // and each table of a VMDK has a copy
    const stores = (format === vmdk ? 8 : 4) * slices;
    expect(holds.operations).toBeLessThanOrEqual(pieces + stores + bitmaps);
    if (format === vpc) expect(holds.longest).toBeLessThanOrEqual(WRITES_PER_HOLD);
    for (let n = 0; n < COUNT; n++) expect(byteAt(image, clusterOf((n * 397) % COUNT))).toBe((n % 200) + 1);
    expect(byteAt(image, 2)).toBe(9);
    image.close();
  });

  test('serves reads, discards and writes between two pieces', () => {
    const { file, image, other } = opened(format);
    for (let n = 0; n < COUNT; n++) write(image, clusterOf(n), 1);
    const wanted = new Map(Array.from({ length: COUNT }, (_, n) => [clusterOf(n), 1]));
    let pauses = 0;
    listenToFailpoints((failpoint) => {
      if (failpoint !== 'link-pause') return;
      listenToFailpoints(null);
      pauses++;
      // one that is linked by now, and one that still waits
      for (const n of [0, COUNT - 1]) {
        expect(byteAt(other, clusterOf(n))).toBe(1);
        write(other, clusterOf(n), 2);
        wanted.set(clusterOf(n), 2);
      }
      for (const n of [1, COUNT - 2, COUNT - 3]) {
        other.discard(guestOffset(clusterOf(n) * CLUSTER), CLUSTER);
        wanted.set(clusterOf(n), 0);
      }
      // and one of those gets new data, and with it another link
      write(other, clusterOf(COUNT - 3), 3);
      wanted.set(clusterOf(COUNT - 3), 3);
      write(other, 0, 4);
      wanted.set(0, 4);
    });
    image.flush();
    expect(pauses).toBe(1);
    const check = (disk: WritableImage) => {
      for (const [cluster, value] of wanted) expect([cluster, byteAt(disk, cluster)]).toEqual([cluster, value]);
      expect(byteAt(disk, 2)).toBe(9);
    };
    check(image);
    check(other);
    image.close();
    const said: string[] = [];
    const report = format.check(file, { repair: 'none', log: (sentence) => said.push(sentence) });
    expect([said, report.corruptions, report.leaks]).toEqual([[], 0, 0]);
    check(openImage(format, file, { readOnly: true, backing: image.backing }));
  });
});
