// Power cuts inside the replay of a VHDX's log, and a repair behind it: whatever is left reads as before, here and to the judge, and the next replay
// completes it. SEED is the beginning; POWERCUT_FORMAT leaves it out if it is no part of its name.

import { expect, test } from 'vitest';
import { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { crashMoments } from '../support/crash-states.ts';
import { firstDifference, readAll } from '../support/image-files.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { checkImage, openImage } from '../support/memory-images.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { LOG_GUID, type LogChange, logEntry, MIB, putEntry, vhdxImage } from '../support/vhdx-bytes.ts';
import { vhdxContent } from '../support/vhdx-judge.ts';
import { RecordingHostFile } from '../support/wrapping-files.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const NAME = 'vhdx, a cut inside a replay';
const isWanted = NAME.includes(process.env['POWERCUT_FORMAT'] ?? '');
const STATES = sliceOf('cuts', 'vhdx');
const DISK = 4 * MIB;
/** Of the states of a moment, all of so many, and this part of the others: an image has thousands. */
const FIRST = 8;
const KEPT = 0.02;

/** A log of random entries: the table, data, zeros, and a block behind the end of the file that comes with them. */
function makeImage(random: () => number): Buffer {
  const pick = (below: number): number => Math.floor(random() * below);
  const blocks = [1, 2, 3].map((byte) => ({ state: 6, data: new Uint8Array(MIB).fill(byte) }));
  const made = vhdxImage({ blocks: [...blocks, { state: 0 }], logGuid: LOG_GUID });
  const { batAt, blocksAt, image, logAt } = made;
  const table = Buffer.from(image.subarray(batAt, batAt + 4096));
  const last = image.length + MIB;
  // two blocks in one place, which a repair separates when the log is carried out
  if (random() < 0.5) table.writeBigUInt64LE(table.readBigUInt64LE(0), 8);
  let at = pick(256) * 4096;
  const tail = at;
  const count = 1 + pick(4);
  for (let n = 0; n < count; n++) {
    const changes: LogChange[] = Array.from({ length: 1 + pick(5) }, () => {
      const offset = [...blocksAt.slice(0, 3), image.length][pick(4)]! + pick(8) * 4096;
      return pick(3) === 0 ? { offset, zeros: 4096 * (1 + pick(3)) } : { offset, data: Buffer.alloc(4096, pick(256)) };
    });
    if (n === count - 1) {
      table.writeBigUInt64LE(BigInt(image.length) | 6n, 3 * 8);
      changes.push({ offset: batAt, data: table });
    }
    const entry = logEntry({ sequence: BigInt(70 + n), tail, flushed: image.length, last, changes });
    putEntry(image, logAt, MIB, at, entry);
    at = (at + entry.length) % MIB;
  }
  return image;
}

test.runIf(isWanted)(`${NAME} leaves an image that reads the same (seed ${SEED})`, { timeout: 36_000_000 }, () => {
  const random = seededRandom(SEED);
  const contentOf = (file: MemoryHostFile): Buffer =>
    readAll(new VirtualDisk(openImage(vhdx, file, { readOnly: true })));
  let states = 0;
  let unfinished = 0;
  while (states < STATES) {
    const image = makeImage(random);
    const wanted = vhdxContent(image);
    expect(wanted.length).toBe(DISK);
    const start = new MemoryHostFile(image);
    const recording = new RecordingHostFile(start.clone());
    checkImage(vhdx, recording, { repair: 'all', log: () => undefined });
    let last = -1;
    let seen = 0;
    for (const { moment, subset, build } of crashMoments([start], recording.log, random)) {
      seen = moment === last ? seen + 1 : 1;
      last = moment;
      if (seen > FIRST && random() > KEPT) continue;
      const state = build()[0]!;
      const where = `moment ${moment} of ${recording.log.length}, subset ${subset}`;
      expect(firstDifference(contentOf(state), wanted), where).toBe('none');
      if (states % 10 === 0)
        expect(firstDifference(vhdxContent(Buffer.from(state.bytes())), wanted), where).toBe('none');
      const isDirty = vhdx.inspect(state).dirty;
      if (isDirty) unfinished++;
      const report = checkImage(vhdx, state, { repair: 'all', log: () => undefined });
      expect(report.corruptions, where).toBe(report.corruptionsFixed);
      expect(vhdx.inspect(state).dirty, where).toBe(false);
      expect(checkImage(vhdx, state, { repair: 'none', log: () => undefined }).corruptions, where).toBe(0);
      expect(firstDifference(contentOf(state), wanted), where).toBe('none');
      states++;
    }
  }
  console.log(`replay of VHDX: ${states} states, ${unfinished} of them with the log still to replay`);
  expect(unfinished).toBeGreaterThan(STATES / 10);
});
