// The log of references whose counters wait, made small: discards that fill it while a flush is at work, and links of that
// flush that need room in it as well.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, openDisk } from '../../src/disk/index.ts';
import { useTwoThreads } from './situations.ts';

const CLUSTER = 512;
const CLUSTERS = 2048;
const SIZE = CLUSTERS * CLUSTER;
const ZERO_CLUSTERS = 1024;
/** Discards ask for three runs for each of the 64 clusters of a table. */
const CAPACITY = 300;

const setting = useTwoThreads();

/** No two adjoining guest clusters have adjoining host clusters; the first ones read as zeros and keep their place. */
function fragmentedImage(): string {
  const path = join(setting.folder, 'disk.qcow2');
  createDisk(path, 'qcow2', { size: SIZE, options: new Map([['cluster_size', '512']]) });
  const disk = openDisk(path, { readOnly: false });
  for (const odd of [0, 1])
    for (let cluster = odd; cluster < CLUSTERS; cluster += 2)
      disk.write(new Uint8Array(CLUSTER).fill(5), 0, CLUSTER, guestOffset(cluster * CLUSTER));
  disk.close();
  const bytes = readFileSync(path);
  const l1 = Number(bytes.readBigUInt64BE(40));
  for (let cluster = 0; cluster < ZERO_CLUSTERS; cluster++) {
    const table = Number(bytes.readBigUInt64BE(l1 + Math.floor(cluster / 64) * 8) & 0x00fffffffffffe00n);
    bytes[table + (cluster % 64) * 8 + 7]! |= 1;
  }
  writeFileSync(path, bytes);
  return path;
}

test('discards during a flush leave room for what its links release', { timeout: 60_000 }, async () => {
  const { script } = setting;
  const path = fragmentedImage();
  const disk = openDisk(path, { readOnly: false, slots: 3 });
  const { decrements } = disk.share().image.state as { decrements: { capacity: number } };
  decrements.capacity = CAPACITY;
  await script.attach(disk);
  for (let cluster = 0; cluster < 700; cluster++) {
    const { error } = await script.run(1, { kind: 'write', at: cluster * CLUSTER, length: CLUSTER, value: 6 });
    expect(error).toBeNull();
  }
  await script.beginAndStop(1, { kind: 'flush' }, 'flush');
  script.begin(2, { kind: 'discard', at: ZERO_CLUSTERS * CLUSTER, length: 128 * CLUSTER });
  // it ends, or waits for the flush, which nothing shows
  for (let n = 0; n < 20 && !script.isIdle(2); n++) await wait(25);
  expect((await script.finish(1)).error).toBeNull();
  expect((await script.answer(2)).error).toBeNull();
  disk.close();
  const findings: string[] = [];
  checkDisk(path, { repair: 'none', log: (sentence) => findings.push(sentence) });
  expect(findings).toEqual([]);
});
