// A slice of the failing host operations (test/support/faults.ts).

import { describe, expect, test } from 'vitest';
import { FAULT_KINDS, failEverywhere } from '../support/faults.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { type GuestStep, prepare, randomSteps, SIZE, SUBJECTS, writtenFormats } from '../support/workloads.ts';

test('every format that is written has a subject', () => {
  expect([...new Set(SUBJECTS.map(({ format }) => format.name))].sort()).toEqual(writtenFormats());
});

/** Each step of a resize fails in turn, which random workloads seldom come to. */
const RESIZES: readonly GuestStep[] = [
  { kind: 'write', at: 4096, length: 4096, value: 91 },
  { kind: 'flush' },
  { kind: 'resize', size: 16 * SIZE },
  { kind: 'write', at: 8192, length: 4096, value: 92 },
  { kind: 'resize', size: SIZE },
];

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

for (const [index, subject] of SUBJECTS.entries()) {
  const workloads = sliceOf('faults');
  describe(`failing host operations under ${subject.name}`, () => {
    for (const kind of FAULT_KINDS) {
      test(`${kind.name}: memory and file stay true (seed ${SEED})`, { timeout: 3_600_000 }, () => {
        const random = seededRandom(SEED + index);
        let faults = 0;
        for (let workload = 0; workload < workloads; workload++) {
          const prepared = prepare(subject, random);
          faults += failEverywhere(subject.format, prepared, randomSteps(random, sliceOf('faultSteps'), subject), kind);
        }
        if (subject.format.can.resize)
          faults += failEverywhere(subject.format, prepare(subject, random), RESIZES, kind);
        expect(faults).toBeGreaterThan(0);
        console.log(`${subject.name}, ${kind.name}: ${faults} faults, nothing wrong`);
      });
    }
  });
}
