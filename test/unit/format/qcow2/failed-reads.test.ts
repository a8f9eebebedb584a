// A table that cannot be read once, at every place where a request reads one: the request fails, and what comes after it
// finds no host cluster that two guest clusters have.

import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const CLUSTER = 16384;
/** The L2 entries of these two clusters lie in two slices of one table. */
const LAST_OF_SLICE = { extended: 255, standard: 511 };

class FailingFile extends MemoryHostFile {
  failAfter = Number.POSITIVE_INFINITY;

  override read(...parameters: Parameters<MemoryHostFile['read']>): number {
    if (this.failAfter-- === 0) throw new ImgfuseError('io', 'no such luck');
    return super.read(...parameters);
  }
}

/** @returns whether a read failed */
function writeWithFailure(kind: keyof typeof LAST_OF_SLICE, reads: number): boolean {
  const options = { cluster_size: String(CLUSTER), extended_l2: kind === 'extended' ? 'on' : 'off' };
  const created = createMemoryImage(qcow2, 64 * 2 ** 20, options);
  const file = new FailingFile(created.bytes());
  const image = openImage(qcow2, file);
  const write = (value: number, cluster: number, count = 1): void =>
    image.write(Buffer.alloc(count * CLUSTER, value), 0, count * CLUSTER, guestOffset(cluster * CLUSTER));
  const read = (cluster: number): number => {
    const bytes = Buffer.alloc(CLUSTER, 0xee);
    image.read(bytes, 0, CLUSTER, guestOffset(cluster * CLUSTER));
    expect(new Set(bytes).size).toBe(1);
    return bytes[0]!;
  };
  const first = LAST_OF_SLICE[kind];
  file.failAfter = reads;
  let failed = false;
  try {
    write(1, first, 2);
  } catch (error) {
    expect((error as Error).message).toBe('no such luck');
    failed = true;
  }
  file.failAfter = Number.POSITIVE_INFINITY;
  write(2, 10);
  image.flush();
  expect([0, 1]).toContain(read(first));
  write(3, first, 2);
  image.flush();
  expect([read(10), read(first), read(first + 1)]).toEqual([2, 3, 3]);
  image.close();
  expect(qcow2.check(file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0 });
  return failed;
}

test.each(['extended', 'standard'] as const)('a write over two slices of %s entries', (kind) => {
  let reads = 0;
  while (writeWithFailure(kind, reads)) reads++;
  expect(reads).toBeGreaterThan(1);
});

/** An image with a snapshot table of one entry, whose L1 table is empty. */
function withSnapshot(): { content: Uint8Array; table: number } {
  const content = Buffer.concat([createMemoryImage(qcow2, 2 ** 20).bytes(), Buffer.alloc(2 * 65536)]);
  const table = content.length - 65536;
  content.writeUInt32BE(1, 60);
  content.writeBigUInt64BE(BigInt(table), 64);
  content.write('1', table + 40);
  content.writeUInt16BE(1, table + 12);
  return { content, table };
}

test('a snapshot table that the host cannot read ends a check, and is no corruption', () => {
  const { content, table } = withSnapshot();
  class UnreadableTable extends MemoryHostFile {
    override read(...parameters: Parameters<MemoryHostFile['read']>): number {
      if (parameters[3] >= table) throw new ImgfuseError('io', 'no such luck');
      return super.read(...parameters);
    }
  }
  const said: string[] = [];
  const log = (sentence: string): void => {
    said.push(sentence);
  };
  expect(() => qcow2.check(new UnreadableTable(content), { repair: 'all', log })).toThrow('no such luck');
  expect(said).toEqual([]);
});
