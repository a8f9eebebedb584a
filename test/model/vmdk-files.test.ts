// Failing host operations on VMDK images of several files.

import { describe, expect, test } from 'vitest';
import { FAULT_KINDS, failEverywhere } from '../support/faults.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { SEVERAL_FILES } from '../support/vmdk-files.ts';
import { prepare, randomSteps } from '../support/workloads.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

for (const [index, subject] of SEVERAL_FILES.entries()) {
  const { format, name } = subject;

  describe(`failing host operations under ${name}`, () => {
    for (const kind of FAULT_KINDS) {
      test(`${kind.name}: memory and files stay true (seed ${SEED})`, { timeout: 3_600_000 }, () => {
        const random = seededRandom(SEED + index);
        let faults = 0;
        for (let workload = 0; workload < sliceOf('extentFaults'); workload++) {
          faults += failEverywhere(format, prepare(subject, random), randomSteps(random, 12), kind);
        }
        expect(faults).toBeGreaterThan(0);
      });
    }
  });
}
