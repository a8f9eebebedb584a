import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { qcow } from '../../../../src/format/qcow/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 4096;

test('a cluster of zeros whose removal a killed process has not made durable is not used before it is (R5)', () => {
  const start = createMemoryImage(qcow, 64 * CLUSTER);
  const made = openImage(qcow, start);
  // zeros that are data, and data behind them, all flushed and closed clean
  made.write(new Uint8Array(CLUSTER), 0, CLUSTER, guestOffset(0));
  made.write(new Uint8Array(CLUSTER).fill(7), 0, CLUSTER, guestOffset(CLUSTER));
  made.close();
  const host = openImage(qcow, start.clone(true), { readOnly: true }).map(guestOffset(0), 512).hostOffset!;

  const file = new RecordingHostFile(start.clone());
  // a discard, and the process is killed: nothing was synced
  openImage(qcow, file).discard(guestOffset(0), CLUSTER);
  // the next process writes elsewhere
  const next = openImage(qcow, file);
  next.write(new Uint8Array(CLUSTER).fill(9), 0, CLUSTER, guestOffset(5 * CLUSTER));
  // the power goes: of what was not synced, only writes of data have reached the disk
  const firstSync = file.log.findIndex(({ operation }) => operation === 'sync');
  const unsynced = firstSync < 0 ? file.log : file.log.slice(firstSync + 1);
  console.log(
    file.log.map(({ operation, offset, length }) => `${operation} ${offset} ${length}`),
    'host',
    host,
  );
  const crashed = start.clone();
  for (const { operation, offset, data } of firstSync < 0 ? unsynced : []) {
    if (operation === 'write' && offset === host) crashed.write(data!, 0, data!.length, hostOffset(offset));
  }
  const after = openImage(qcow, crashed);
  const bytes = new Uint8Array(CLUSTER);
  after.read(bytes, 0, CLUSTER, guestOffset(0));
  expect(bytes[0]).toBe(0);
});
