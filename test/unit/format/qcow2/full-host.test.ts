// A host file system that is full in the middle of a round of links or of new refcount structures, and has space later.

import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { FaultyHostFile, type HostOperation } from '../../../support/wrapping-files.ts';

const CLUSTER = 4096;
/** guest bytes of one L2 table */
const COVERAGE = 512 * CLUSTER;

/** Fails the writes whose position among all writes is in `failing`. */
class FullHost {
  writes = 0;
  failAt = -1;
  transferred = 0;
  readonly plan = (operation: HostOperation) => {
    if (operation !== 'write' || this.writes++ !== this.failAt) return null;
    return { errno: ERRNO.ENOSPC, transferred: this.transferred };
  };
}

function checked(file: Parameters<typeof qcow2.check>[0]): string[] {
  const findings: string[] = [];
  qcow2.check(file, { repair: 'none', log: (sentence) => findings.push(sentence) });
  return findings;
}

test('L1 entries that were written before the host was full are not written, and not released, again', () => {
  for (let position = 0; position < 8; position++) {
    const file = createMemoryImage(qcow2, 8 * COVERAGE, { cluster_size: '4k' });
    const host = new FullHost();
    const image = openImage(qcow2, new FaultyHostFile(file, host.plan));
    const write = (at: number, value: number) =>
      image.write(new Uint8Array(CLUSTER).fill(value), 0, CLUSTER, guestOffset(at));
    for (let table = 0; table < 4; table++) write(table * COVERAGE, table + 1);
    host.failAt = host.writes + position;
    try {
      image.flush();
    } catch {
      expect(image.failure()).toBe(null);
    }
    for (let round = 0; round < 3; round++) image.flush();
    for (let n = 0; n < 8; n++) {
      write(4 * COVERAGE + n * CLUSTER, 99);
      image.flush();
    }
    const bytes = new Uint8Array(CLUSTER);
    for (let table = 0; table < 4; table++) {
      image.read(bytes, 0, CLUSTER, guestOffset(table * COVERAGE));
      expect(bytes, `position ${position}, table ${table}`).toEqual(new Uint8Array(CLUSTER).fill(table + 1));
    }
    image.close();
    expect(checked(file), `position ${position}`).toEqual([]);
  }
});

test('a larger refcount table that could not be written leaves nothing where guest data goes next', () => {
  // 64 blocks of 64 clusters are all that the first table can show, and a longer L1 table asks for more
  const [size, filled] = [3 * 1024 * 1024, 3930];
  const start = createMemoryImage(qcow2, size, { cluster_size: '512', refcount_bits: '64' });
  const before = openImage(qcow2, start);
  before.write(new Uint8Array(filled * 512), 0, filled * 512, guestOffset(0));
  before.close();
  for (let position = 0, failed = true; failed; position++) {
    const file = start.clone();
    const host = new FullHost();
    host.transferred = 256;
    const image = openImage(qcow2, new FaultyHostFile(file, host.plan));
    host.failAt = host.writes + position;
    failed = false;
    try {
      image.resize(512 * 1024 * 1024);
    } catch {
      failed = true;
    }
    host.failAt = -1;
    if (image.failure() !== null) continue;
    for (let cluster = filled; cluster < filled + 25; cluster++)
      image.write(Uint8Array.of(0), 0, 1, guestOffset(cluster * 512));
    const bytes = new Uint8Array(size);
    image.read(bytes, 0, size, guestOffset(0));
    const wrong = bytes.findIndex((value) => value !== 0);
    expect(wrong, `position ${position}: ${bytes[wrong]} at ${wrong}`).toBe(-1);
    image.close();
    expect(checked(file).filter((finding) => !finding.startsWith('Leaked'))).toEqual([]);
  }
});
