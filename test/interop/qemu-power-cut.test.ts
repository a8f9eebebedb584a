// QEMU's own engines under our crash model (test/support/qemu-power-cut.ts): prints what QEMU and what imgfuse make of the
// crash states that QEMU's engines leave. QEMU's figures are QEMU's; what is asserted is that the machinery finds what is
// wrong and only that. POWERCUT_FORMAT is a part of the names of subjects.

import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { replay } from '../support/crash-states.ts';
import { openImage } from '../support/memory-images.ts';
import { legalSectors, type Verdict } from '../support/power-cut.ts';
import { hasQemu } from '../support/qemu.ts';
import { cutQemuPower, judgeByQemu, noVerdicts, QEMU_SUBJECTS, recordQemu } from '../support/qemu-power-cut.ts';
import { parseWriteLog } from '../support/qemu-write-log.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { SECTOR, SECTORS } from '../support/workloads.ts';

const STATES = sliceOf('qemuCuts');
const FORMAT = process.env['POWERCUT_FORMAT'] ?? '';
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

let folder: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function figures({ lost, unrepaired, corrupt }: Verdict): string {
  return `${lost} with lost sectors, ${unrepaired} unrepaired, ${corrupt} corrupt`;
}

for (const [index, subject] of QEMU_SUBJECTS.entries()) {
  if (!subject.name.includes(FORMAT)) continue;
  describe(`power cuts on the ${subject.name} of QEMU`, () => {
    test(`are judged by QEMU and by imgfuse (seed ${SEED})`, { timeout: 36_000_000 }, async () => {
      const random = seededRandom(SEED + index);
      const verdicts = noVerdicts();
      while (verdicts.qemu.states < STATES) {
        cutQemuPower(await recordQemu(subject, folder, random), folder, random, verdicts);
      }
      const { qemu, imgfuse, refused } = verdicts;
      console.log(
        `QEMU ${subject.name}: ${qemu.states} states; reopened by QEMU: ${figures(qemu)}; ` +
          `reopened by imgfuse: ${refused} refused until check -r all, ${figures(imgfuse)}`,
      );
      for (const [name, { failures }] of Object.entries({ QEMU: qemu, imgfuse })) {
        for (const failure of failures.slice(0, 2)) console.log(`  ${name}: ${failure}`);
      }
      expect(imgfuse.states).toBe(qemu.states);
    });

    test(`find nothing where there was none, and what was lost where there was one (seed ${SEED})`, async () => {
      const random = seededRandom(SEED + index);
      let flushed = 0;
      while (flushed === 0) {
        const { workload, log, events } = await recordQemu(subject, folder, random);
        const legal = legalSectors(workload.content, events, log.length);
        expect(judgeByQemu(workload, replay(workload.start, log), legal, folder, random)).toBeNull();
        const image = openImage(workload.format, replay(workload.start, log), {
          backing: workload.backing,
          readOnly: true,
        });
        const bytes = Buffer.alloc(SECTOR);
        for (let sector = 0; sector < SECTORS; sector++) {
          image.read(bytes, 0, SECTOR, guestOffset(sector * SECTOR));
          expect(legal.of(sector)).toContain(bytes[0]);
        }
        image.close();
        // the image as it was before, where a flush has completed since
        flushed = workload.content.filter((value, sector) => !legal.allows(sector, value)).length;
        if (flushed === 0) continue;
        expect(judgeByQemu(workload, workload.start, legal, folder, random)).toMatchObject({ kind: 'lost' });
        // the image file cut off behind its header
        const cut = replay(workload.start, log);
        cut.truncate(4096);
        expect(judgeByQemu(workload, cut, legal, folder, random)).toMatchObject({ kind: 'corrupt' });
      }
    });
  });
}

test('a log of blklogwrites that is damaged is refused', async () => {
  await recordQemu(QEMU_SUBJECTS[0]!, folder, seededRandom(SEED));
  const path = join(folder, 'log');
  const whole = readFileSync(path);
  expect(parseWriteLog(whole).operations.length).toBeGreaterThan(0);
  expect(() => parseWriteLog(whole.subarray(0, whole.length - 512))).toThrow('the log ends at');
  appendFileSync(path, Buffer.alloc(512));
  expect(() => parseWriteLog(readFileSync(path))).toThrow('the log ends at');
  const changed = (at: number, value: number) => {
    writeFileSync(path, whole);
    const bytes = readFileSync(path);
    bytes[at] = value;
    return () => parseWriteLog(bytes);
  };
  expect(changed(0, 0)).toThrow('not a log');
  expect(changed(8, 2)).toThrow('version 2');
  // a write that reaches the medium by itself has no place in the crash model
  expect(changed(512 + 16, 2)).toThrow('flags 2');
});
