// The order of the host operations of a qcow image: data, flush, entries; and a new L2 table is durable before its L1 entry.

import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { steadyMs } from '../../../../src/concurrency/clock.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { qcow } from '../../../../src/format/qcow/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

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
