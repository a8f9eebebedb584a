// Formats with one flat table: entries that lead nowhere, of which a large disk has millions, are passed over in rows by the walk of an
// open or a check, and by a discard. Processor time is measured, in units of a plain loop over as many entries.

import { expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import type { CheckedFormat } from '../../../src/format/image-format.ts';
import { vhdx } from '../../../src/format/vhdx/index.ts';
import type { MemoryHostFile } from '../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../support/memory-images.ts';
import { plainParallels } from '../../support/plain-parallels.ts';

const BLOCKS = 2 ** 21;
const SIZE = BLOCKS * 1024 * 1024;

function secondsOf(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

const view = new DataView(new ArrayBuffer(4096));
let seen = 0;
/** The least that a walk can do: look at both words of each entry. */
function plainLoop(): void {
  for (let done = 0; done < BLOCKS; done += 512) {
    for (let at = 0; at < 4096; at += 8) seen += view.getUint32(at, true) + view.getUint32(at + 4, true);
  }
}

const walk = (format: CheckedFormat, file: MemoryHostFile): void => {
  const report = checkImage(format, file, { repair: 'none', log: () => undefined });
  expect(report).toMatchObject({ totalClusters: BLOCKS, corruptions: 0, leaks: 0, checkErrors: 0 });
};
const discard = (format: CheckedFormat, file: MemoryHostFile): void => {
  const image = openImage(format, file);
  image.discard(guestOffset(0), SIZE);
  image.close();
};

/** It is 7 to 25 loops; with a call for each entry a discard costs 110 to 300. */
test.each<[string, CheckedFormat, Readonly<Record<string, string>>, number]>([
  ['VHDX', vhdx, { block_size: '1M' }, 60],
  ['Parallels', plainParallels, {}, 60],
])('two million blocks of a %s are walked, and discarded, in rows', (_, format, options, mostLoops) => {
  const file = createMemoryImage(format, SIZE, options);
  const loop = secondsOf(plainLoop) + secondsOf(plainLoop);
  for (const work of [walk, discard]) {
    const loops = (2 * secondsOf(() => work(format, file))) / loop;
    expect(loops, work.name).toBeLessThan(mostLoops);
  }
  expect(seen).toBe(0);
});
