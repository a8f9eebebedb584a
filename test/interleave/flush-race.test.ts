// What one thread completes while another one's flush is under way is covered by its own flush only: two objects over the
// state of one image, the second called from within a fdatasync of the first.

import { expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { ERRNO } from '../../src/errors/index.ts';
import type { WritableFormat, WritableImage } from '../../src/format/image-format.ts';
import { qcow } from '../../src/format/qcow/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import { vdi } from '../../src/format/vdi/index.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { vmdk } from '../../src/format/vmdk/index.ts';
import { vpc } from '../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import { FaultyHostFile } from '../support/wrapping-files.ts';

const CLUSTER = 65536;
const SIZE = 16 * CLUSTER;

interface Kind {
  readonly format: WritableFormat;
  readonly options: Readonly<Record<string, string>>;
}

const QED: Kind = { format: qed, options: {} };
const KINDS: readonly Kind[] = [
  QED,
  { format: qcow2, options: {} },
  { format: vdi, options: { block_size: '64k' } },
  { format: vpc, options: { block_size: '64k' } },
  { format: vmdk, options: {} },
  { format: qcow, options: {} },
  { format: vhdx, options: { block_size: '1M' } },
];

function block(value: number): Uint8Array {
  return new Uint8Array(4096).fill(value);
}

function valueAt(image: WritableImage, offset: number): number {
  const bytes = new Uint8Array(1);
  image.read(bytes, 0, 1, guestOffset(offset));
  return bytes[0]!;
}

/** An overlay over data, and a second thread's object over its state. */
function overlay({ format, options }: Kind): {
  file: MemoryHostFile;
  first: WritableImage;
  second: WritableImage;
  backing: WritableImage;
} {
  const backing = openImage(raw, new MemoryHostFile(new Uint8Array(SIZE).fill(200), '/base'));
  const file = createMemoryImage(format, SIZE, options, '/base');
  const first = openImage(format, file, { backing, slots: 2 });
  const second = format.attach(file, first.share(), { slot: 1, backing, extents: [], log: () => undefined });
  return { file, first, second, backing };
}

test.each(
  KINDS,
)('of $format.name, a write held back during the flush of another thread is made durable by its own flush (R6, R9)', (kind) => {
  const { file, first, second, backing } = overlay(kind);
  first.write(block(1), 0, 4096, guestOffset(0));
  let syncs = 0;
  file.sync = () => {
    // the first sync of the flush makes held-back data durable, before its links
    if (syncs++ === 0) second.write(block(2), 0, 4096, guestOffset(CLUSTER));
  };
  first.flush();
  second.flush();
  const crashed = openImage(kind.format, file.clone(), { backing });
  expect(valueAt(crashed, 0)).toBe(1);
  expect(valueAt(crashed, CLUSTER)).toBe(2);
});

test('a close after a write that failed half-way is clean, with what was written', () => {
  const backing = openImage(raw, new MemoryHostFile(new Uint8Array(SIZE).fill(200), '/base'));
  const file = createMemoryImage(qed, SIZE, {}, '/base');
  let writes = Number.NEGATIVE_INFINITY;
  const host = new FaultyHostFile(file, (operation) => (operation === 'write' && ++writes === 3 ? ERRNO.ENOSPC : null));
  const image = openImage(qed, host, { backing });
  // a cluster in the middle has data already, so the long write below goes in three pieces, and the third one fails
  image.write(block(9), 0, 4096, guestOffset(2 * CLUSTER));
  image.flush();
  writes = 0;
  expect(() => image.write(new Uint8Array(5 * CLUSTER).fill(3), 0, 5 * CLUSTER, guestOffset(0))).toThrow(/by plan/);
  image.close();
  expect(qed.inspect(file).dirty).toBe(false);
  const after = openImage(qed, file, { backing });
  expect([0, 1, 2, 3].map((cluster) => valueAt(after, cluster * CLUSTER))).toEqual([3, 3, 3, 200]);
});

test('space taken with fallocate over a zero cluster does not bring back backing data after a power cut (R6)', () => {
  const { file, first, backing } = overlay(QED);
  first.discard(guestOffset(0), CLUSTER);
  first.close();
  const lengthBefore = file.size();
  const image = openImage(qed, file, { backing });
  image.preallocate(guestOffset(0), CLUSTER);
  // the entry survives, the growth of the file does not
  const crashed = file.clone();
  crashed.truncate(lengthBefore);
  expect(valueAt(openImage(qed, crashed, { backing }), 0)).toBe(0);
  image.close();
});
