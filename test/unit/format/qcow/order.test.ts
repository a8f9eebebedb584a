// The order of the host operations of a qcow image: data, flush, entries; and a new L2 table is durable before its L1 entry.

import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { steadyMs } from '../../../../src/concurrency/clock.ts';
import { ERRNO, errnoOf } from '../../../../src/errors/index.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { qcow } from '../../../../src/format/qcow/index.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { FaultyHostFile, type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 4096;
/** of the first L1 entry, and behind the second */
const [L1, L1_END] = [48, 64];

function recorded(...runs: readonly ((image: WritableImage) => void)[]): string[] {
  const file = new RecordingHostFile(createMemoryImage(qcow, 3 * 1024 * 1024));
  const image = openImage(qcow, file);
  for (const run of runs) {
    file.log.length = 0;
    run(image);
  }
  return file.log.map((operation) => nameOf(operation));
}

/** Each table takes a cluster that is not among the data. */
function nameOf({ data, offset, operation }: RecordedOperation): string {
  if (operation !== 'write') return operation;
  if (offset >= L1 && offset < L1_END) return 'L1';
  return data!.every((byte) => byte === 7) ? 'data' : 'L2';
}

const write =
  (at: number, length = 512) =>
  (image: WritableImage): void =>
    image.write(Buffer.alloc(length, 7), 0, length, guestOffset(at));
const flush = (image: WritableImage): void => image.flush();

test('nothing leads to data before a flush has made it durable', () => {
  expect(recorded(write(0))).toEqual(['truncate', 'data']);
  expect(recorded(write(0), flush)).toEqual(['sync', 'L1', 'L2', 'sync']);
});

test('tables of one flush share its fdatasync, and existing ones need none', () => {
  const both = (image: WritableImage): void => {
    write(0)(image);
    write(2 * 1024 * 1024)(image);
  };
  expect(recorded(both, flush)).toEqual([...['sync', 'L1', 'L1', 'L2', 'L2', 'sync']]);
  expect(recorded(write(0), flush, write(CLUSTER), flush)).toEqual(['sync', 'L2', 'sync']);
});

test('links wait for half a second at most', () => {
  expect(recorded(write(0), (image) => image.maintain(steadyMs() + 100))).toEqual([]);
  expect(recorded(write(0), (image) => image.maintain(steadyMs() + 600))).toEqual(['sync', 'L1', 'L2']);
});

test('a freed cluster is punched when its removal is durable, and used again when it reads as zeros', () => {
  const discard = (image: WritableImage): void => image.discard(guestOffset(0), CLUSTER);
  expect(recorded(write(0), flush, discard)).toEqual(['L2']);
  expect(recorded(write(0), flush, discard, flush)).toEqual(['sync', 'punch-hole']);
  expect(recorded(write(0), flush, discard, flush, write(CLUSTER), flush, write(2 * CLUSTER))).toEqual(['data']);
});

test('a write in place waits for nothing', () => {
  expect(recorded(write(0), flush, write(1000))).toEqual(['data']);
  expect(recorded(write(0), write(1000))).toEqual(['data']);
});

test.each([
  0, 1, 2, 3, 4, 5,
])('a host with room for %i more clusters refuses writes, and no flush and no close', (room) => {
  const file = createMemoryImage(qcow, 16 * 1024 * 1024);
  const limit = Math.ceil(file.size() / CLUSTER) * CLUSTER + room * CLUSTER;
  const full = (operation: string, _count: number, length: number): number | null =>
    operation === 'truncate' && length > limit ? ERRNO.EFBIG : null;
  const image = openImage(qcow, new FaultyHostFile(file, full));
  const accepted: number[] = [];
  // each needs an L2 table of its own, and the last ones have one
  const places = [0, 2, 4, 6, 8].map((mib) => mib * 1024 * 1024);
  for (const at of [...places, ...places.map((each) => each + CLUSTER)]) {
    try {
      write(at, CLUSTER)(image);
      accepted.push(at);
    } catch (error) {
      expect(errnoOf(error)).toBe(ERRNO.EFBIG);
    }
    image.flush();
  }
  // a table and a cluster; then one cluster more for each that is left
  const tables = Math.floor(room / 2);
  expect(accepted.length).toBe(tables + (tables > 0 ? room - 2 * tables : 0));
  const bytes = Buffer.alloc(CLUSTER);
  const expectContent = (disk: WritableImage): void => {
    for (const at of accepted) {
      disk.read(bytes, 0, CLUSTER, guestOffset(at));
      expect(bytes.every((byte) => byte === 7)).toBe(true);
    }
  };
  expectContent(image);
  image.close();
  const findings: string[] = [];
  checkImage(qcow, file, { repair: 'none', log: (finding) => findings.push(finding) });
  expect(findings).toEqual([]);
  expectContent(openImage(qcow, file));
});

test('a table whose only link was dropped is linked empty, and nothing leaks', () => {
  const file = createMemoryImage(qcow, 3 * 1024 * 1024);
  const image = openImage(qcow, file);
  write(0, CLUSTER)(image);
  image.discard(guestOffset(0), CLUSTER);
  image.close();
  const findings: string[] = [];
  checkImage(qcow, file, { repair: 'none', log: (finding) => findings.push(finding) });
  expect(findings).toEqual([]);
});
