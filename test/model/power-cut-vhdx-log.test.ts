// Power cuts while the log of a VHDX goes round its ring with nothing flushed: whatever of it is left gives the metadata that was
// durable, or later one. Short workloads never come to the end of a log. SEED is the beginning;
// POWERCUT_FORMAT leaves it out if it is no part of its name.

import { expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { replay } from '../support/crash-states.ts';
import { readAll } from '../support/image-files.ts';
import type { MemoryHostFile } from '../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../support/memory-images.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { MIB } from '../support/vhdx-bytes.ts';
import { vhdxContent } from '../support/vhdx-judge.ts';
import { type RecordedOperation, RecordingHostFile } from '../support/wrapping-files.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const NAME = 'vhdx, a log that goes round';
const isWanted = NAME.includes(process.env['POWERCUT_FORMAT'] ?? '');
const STATES = Math.ceil(sliceOf('cuts', 'vhdx') / 4);
const DISK = 4 * MIB;
/** Entries before the recording begins, up to one round of the ring, and in it. */
const [BEFORE, RECORDED] = [130, 300];
const STATES_OF_A_RUN = 50;

/** The first part of a write, which ends before the sector of zeros behind an entry of the log. */
function torn(operation: RecordedOperation, random: () => number): RecordedOperation {
  const { data } = operation;
  if (data === undefined) return operation;
  const sectors = Math.max(1, data.length / 512 - 8);
  return { ...operation, data: data.subarray(0, 512 * Math.floor(random() * sectors)) };
}

/** The file as a cut at some moment may leave it: what a fdatasync covered, and of the rest any part. */
function crashOf(
  start: MemoryHostFile,
  log: readonly RecordedOperation[],
  random: () => number,
): { readonly state: MemoryHostFile; readonly where: string } {
  const moment = Math.floor(random() * (log.length + 1));
  const durable = log.slice(0, moment).findLastIndex(({ operation }) => operation === 'sync') + 1;
  // most of it, half of it, or hardly any; or all of it, and nothing whole
  const share = [0.9, 0.5, 0.1, 1][Math.floor(random() * 4)]!;
  const kept = log.slice(durable, moment).filter(() => random() < share);
  if (share === 1) for (const [i, operation] of kept.entries()) kept[i] = torn(operation, random);
  const state = replay(start, [...log.slice(0, durable), ...kept]);
  return { state, where: `moment ${moment} of ${log.length}, ${kept.length} of ${moment - durable} kept` };
}

test.runIf(isWanted)(`${NAME}: a cut loses nothing that was flushed (seed ${SEED})`, { timeout: 36_000_000 }, () => {
  const random = seededRandom(SEED);
  const pick = (below: number): number => Math.floor(random() * below);
  let states = 0;
  let replayed = 0;
  while (states < STATES) {
    const memory = createMemoryImage(vhdx, DISK, { block_size: '1M' });
    const recording = new RecordingHostFile(memory);
    const image = openImage(vhdx, recording);
    /** the last block is written again and again, and the first two before the flush only */
    const change = (turn: number): void => {
      if (turn % 2 === 0) image.discard(guestOffset(3 * MIB), MIB);
      else image.write(Buffer.alloc(512, 1 + (turn % 200)), 0, 512, guestOffset(3 * MIB));
    };
    image.write(Buffer.alloc(512, 251), 0, 512, guestOffset(0));
    for (let turn = 0, count = pick(BEFORE); turn < count; turn++) change(turn);
    image.write(Buffer.alloc(512, 252), 0, 512, guestOffset(MIB));
    image.discard(guestOffset(0), MIB);
    const start = memory.clone();
    recording.log.length = 0;
    image.flush();
    for (let turn = 0; turn < RECORDED; turn++) {
      change(turn);
      if (pick(150) === 0) image.flush();
    }
    for (let n = 0; n < STATES_OF_A_RUN; n++) {
      const { state, where } = crashOf(start, recording.log, random);
      const bytes = readAll(new VirtualDisk(openImage(vhdx, state, { readOnly: true })));
      expect([bytes[0], bytes[MIB], bytes[2 * MIB]], where).toEqual([0, 252, 0]);
      if (states % 5 === 0) expect(Buffer.compare(vhdxContent(Buffer.from(state.bytes())), bytes), where).toBe(0);
      if (vhdx.inspect(state).dirty) replayed++;
      openImage(vhdx, state).close();
      const report = checkImage(vhdx, state, { repair: 'none', log: () => undefined });
      expect([report.corruptions, report.leaks], where).toEqual([0, 0]);
      expect(Buffer.compare(readAll(new VirtualDisk(openImage(vhdx, state, { readOnly: true }))), bytes), where).toBe(
        0,
      );
      states++;
    }
  }
  console.log(`${NAME}: ${states} states, ${replayed} of them with the log to replay`);
  expect(replayed).toBeGreaterThan(states / 2);
});
