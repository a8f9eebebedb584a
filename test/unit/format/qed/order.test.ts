// The order of the durability steps of QED, read off a recording of the host file: R5, R6, R7, and the links of new tables.
// Small images with clusters of 4 KiB and tables of one cluster; the L1 table is at 4096.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { steadyMs } from '../../../../src/concurrency/clock.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 4096;
const SIZE = 8 * 1024 * 1024;
const L1 = 4096;

interface Opened {
  readonly image: WritableImage;
  readonly log: RecordedOperation[];
}

function open(backingBytes?: Uint8Array): Opened {
  const backing = backingBytes === undefined ? null : openImage(raw, new MemoryHostFile(backingBytes, '/base'));
  const file = createMemoryImage(
    qed,
    SIZE,
    { cluster_size: '4k', table_size: '1' },
    backing === null ? undefined : '/base',
  );
  const recording = new RecordingHostFile(file);
  return { image: openImage(qed, recording, { backing }), log: recording.log };
}

function write(image: WritableImage, at: number, length: number, byte: number): void {
  image.write(new Uint8Array(length).fill(byte), 0, length, guestOffset(at));
}

/** Position in the log of the first write that holds this byte as data. */
function dataWrite(log: readonly RecordedOperation[], byte: number): number {
  return log.findIndex(
    ({ operation, data }) =>
      operation === 'write' && data !== undefined && data.length >= 100 && data[data.length >> 1] === byte,
  );
}

/** Position of the first write, from `from` on, of a table entry that refers to a host cluster. */
function linkOf(log: readonly RecordedOperation[], host: number, from = 0): number {
  return log.findIndex(({ operation, data, length }, at) => {
    if (at < from || operation !== 'write' || data === undefined || length > CLUSTER || length % 8 !== 0) return false;
    const view = new DataView(data.buffer, data.byteOffset, length);
    for (let i = 0; i < length; i += 8) if (view.getBigUint64(i, true) === BigInt(host)) return true;
    return false;
  });
}

function syncsBetween(log: readonly RecordedOperation[], from: number, to: number): number {
  return log.slice(from, to).filter(({ operation }) => operation === 'sync').length;
}

function hostOf(image: WritableImage, at: number): number {
  return image.map(guestOffset(at), 1).hostOffset!;
}

describe('an allocating write', () => {
  test('sets the dirty bit and makes it durable before anything else (R7), and only once in a dirty period', () => {
    const { image, log } = open();
    write(image, 0, 5000, 1);
    expect(log[0]).toMatchObject({ operation: 'write', offset: 16 });
    expect(log[0]!.data![0]! & 2).toBe(2);
    expect(log[1]?.operation).toBe('sync');
    const before = log.length;
    write(image, 3_000_000, 5000, 2);
    expect(log.slice(before).some(({ operation }) => operation === 'sync')).toBe(false);
    expect(log.slice(before).some(({ offset }) => offset === 16)).toBe(false);
  });

  test('writes its data before the entry, and the entries of a new table before the L1 entry that shows it', () => {
    const { image, log } = open();
    write(image, 0, 5000, 1);
    const data = dataWrite(log, 1);
    const link = linkOf(log, hostOf(image, 0));
    const l1 = log.findIndex(({ operation, offset, length }) => operation === 'write' && offset === L1 && length === 8);
    expect(data).toBeGreaterThan(1);
    expect(link).toBeGreaterThan(data);
    expect(l1).toBeGreaterThan(link);
  });

  test('over data of a backing file is linked only after an fdatasync of its data (R6)', () => {
    const { image, log } = open(new Uint8Array(1024 * 1024).fill(0x77));
    write(image, 10_000, 3000, 1);
    const host = hostOf(image, 10_000) - (10_000 % CLUSTER);
    expect(linkOf(log, host), 'the link is held back').toBe(-1);
    image.flush();
    const [data, link] = [dataWrite(log, 1), linkOf(log, host)];
    expect(link).toBeGreaterThan(data);
    expect(syncsBetween(log, data, link)).toBeGreaterThanOrEqual(1);
    expect(syncsBetween(log, link, log.length), 'the flush covers the link as well').toBeGreaterThanOrEqual(1);
  });

  test('over data of a backing file is linked without a flush after at most a second (R9), in the same order', () => {
    const { image, log } = open(new Uint8Array(1024 * 1024).fill(0x77));
    write(image, 10_000, 3000, 1);
    const host = hostOf(image, 10_000) - (10_000 % CLUSTER);
    image.maintain(steadyMs() + 1000);
    const [data, link] = [dataWrite(log, 1), linkOf(log, host)];
    expect(link).toBeGreaterThan(data);
    expect(syncsBetween(log, data, link)).toBeGreaterThanOrEqual(1);
  });

  test('over a backing file that reads as zeros there needs no fdatasync once the length of the file is durable', () => {
    const { image, log } = open(new Uint8Array(1024 * 1024));
    write(image, 4_000_000, 3000, 3);
    image.flush();
    const mark = log.length;
    write(image, 3_000_000, 3000, 1);
    expect(linkOf(log, hostOf(image, 3_000_000) - (3_000_000 % CLUSTER), mark)).toBeGreaterThan(mark);
    expect(syncsBetween(log, mark, log.length)).toBe(0);
  });

  test('of many clusters links them in one write of a table', () => {
    const { image, log } = open();
    write(image, 0, 100 * CLUSTER, 1);
    expect(log.filter(({ operation, length }) => operation === 'write' && length === 800)).toHaveLength(1);
  });
});

describe('a freed cluster (R5)', () => {
  test('is punched after one fdatasync and handed out after a second, never before', () => {
    const { image, log } = open();
    write(image, 0, 4 * CLUSTER, 1);
    image.flush();
    const freed = hostOf(image, CLUSTER);
    const mark = log.length;
    image.discard(guestOffset(CLUSTER), CLUSTER);
    const isReused = (at: number) => {
      write(image, at, CLUSTER, 2);
      return hostOf(image, at) === freed;
    };
    expect(isReused(1_000_000 - (1_000_000 % CLUSTER))).toBe(false);
    expect(log.slice(mark).some(({ operation }) => operation === 'punch-hole')).toBe(false);
    image.flush();
    const punch = log.findIndex(
      ({ operation, offset }, at) => at >= mark && operation === 'punch-hole' && offset === freed,
    );
    expect(syncsBetween(log, mark, punch)).toBeGreaterThanOrEqual(1);
    expect(isReused(200 * CLUSTER)).toBe(false);
    image.flush();
    expect(syncsBetween(log, punch, log.length)).toBeGreaterThanOrEqual(1);
    expect(isReused(300 * CLUSTER)).toBe(true);
    const reuse = linkOf(log, freed, punch);
    expect(syncsBetween(log, punch, reuse)).toBeGreaterThanOrEqual(1);
  });

  test('reads as zeros around a partial write when it is used again', () => {
    const { image } = open();
    write(image, 0, 4 * CLUSTER, 1);
    const freed = hostOf(image, 0);
    image.discard(guestOffset(0), 4 * CLUSTER);
    for (let i = 0; i < 3; i++) image.flush();
    write(image, 2_000_100, 50, 2);
    expect(hostOf(image, 2_000_100) - (2_000_100 % CLUSTER)).toBe(freed);
    const target = new Uint8Array(CLUSTER);
    image.read(target, 0, CLUSTER, guestOffset(2_000_100 - (2_000_100 % CLUSTER)));
    expect(target.filter((byte) => byte === 1)).toHaveLength(0);
    expect(target.filter((byte) => byte === 2)).toHaveLength(50);
  });
});

describe('a close', () => {
  test('clears the dirty bit between two fdatasyncs, after everything else', () => {
    const { image, log } = open();
    write(image, 0, 5000, 1);
    image.close();
    const clear = log.findLastIndex(({ operation, offset }) => operation === 'write' && offset === 16);
    expect(log[clear]!.data![0]! & 2).toBe(0);
    expect(log[clear - 1]?.operation).toBe('sync');
    expect(log.slice(clear + 1).map(({ operation }) => operation)).toEqual(['sync']);
    expect(dataWrite(log, 1)).toBeLessThan(clear);
  });
});

describe('a resize', () => {
  test('makes a smaller size durable before it gives anything up', () => {
    const { image, log } = open();
    write(image, 0, 600 * CLUSTER, 1);
    image.flush();
    const mark = log.length;
    image.resize(CLUSTER * 3 + 512);
    const size = log.findIndex(({ operation, offset }, at) => at >= mark && operation === 'write' && offset === 48);
    const first = log.findIndex(
      ({ operation, offset }, at) =>
        at > size && (operation === 'punch-hole' || (operation === 'write' && offset >= L1)),
    );
    expect(size).toBeGreaterThanOrEqual(mark);
    expect(first).toBeGreaterThan(size);
    expect(syncsBetween(log, size, first)).toBeGreaterThanOrEqual(1);
  });

  test('hides a backing file durably before a larger size shows it', () => {
    const { image, log } = open(new Uint8Array(SIZE).fill(0x77));
    image.resize(1024 * 1024);
    const mark = log.length;
    image.resize(2 * 1024 * 1024);
    const size = log.findIndex(({ operation, offset }, at) => at >= mark && operation === 'write' && offset === 48);
    const zeros = log.findIndex(
      ({ operation, offset, data }, at) => at >= mark && operation === 'write' && offset > L1 && data?.[0] === 1,
    );
    expect(zeros).toBeGreaterThanOrEqual(mark);
    expect(size).toBeGreaterThan(zeros);
    expect(syncsBetween(log, zeros, size)).toBeGreaterThanOrEqual(1);
  });
});

describe('what an unclean end left behind', () => {
  test('is cut off only when an fdatasync has made durable that nothing refers to it (R5)', () => {
    const file = createMemoryImage(qed, SIZE, { cluster_size: '4k', table_size: '1' });
    const image = openImage(qed, file);
    write(image, 0, CLUSTER, 1);
    write(image, CLUSTER, CLUSTER, 2);
    image.flush();
    image.discard(guestOffset(CLUSTER), CLUSTER);
    // the process ends here
    const recording = new RecordingHostFile(file.clone());
    openImage(qed, recording);
    const cut = recording.log.findIndex(({ operation }) => operation === 'truncate');
    expect(cut).toBeGreaterThanOrEqual(0);
    expect(syncsBetween(recording.log, 0, cut)).toBeGreaterThan(0);
    // new clusters there are taken to read as zeros
    expect(recording.log[cut + 1]?.operation).toBe('sync');
  });
});

test('more clusters than links can wait are preallocated over a backing file', () => {
  const backing = openImage(raw, new MemoryHostFile(new Uint8Array(CLUSTER).fill(7), '/base'));
  const size = 80 * 1024 * 1024;
  const file = createMemoryImage(qed, size, { cluster_size: '4k', table_size: '1' }, '/base');
  const image = openImage(qed, file, { backing });
  image.preallocate(guestOffset(CLUSTER), size - CLUSTER);
  expect(image.map(guestOffset(CLUSTER), size).status).toBe('data');
  expect(image.allocatedBytes()).toBe(size - CLUSTER);
  image.close();
});
