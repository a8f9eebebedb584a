// Failing host operations on extents of VMDK images, without a descriptor: kinds that qemu-img does not make, and tables that come into
// being.

import { describe, expect, test } from 'vitest';
import { WRITTEN_EXTENTS } from '../support/extents.ts';
import { FAULT_KINDS, failEverywhere } from '../support/faults.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { prepare, randomSteps } from '../support/workloads.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

for (const [index, { format, name, withBacking }] of WRITTEN_EXTENTS.entries()) {
  const subject = { name, format, options: {}, withBacking };

  describe(`failing host operations under ${name}`, () => {
    for (const kind of FAULT_KINDS) {
      test(`${kind.name}: memory and file stay true (seed ${SEED})`, { timeout: 3_600_000 }, () => {
        const random = seededRandom(SEED + index);
        let faults = 0;
        for (let workload = 0; workload < sliceOf('extentFaults', 'vmdk'); workload++) {
          faults += failEverywhere(format, prepare(subject, random), randomSteps(random, 12), kind);
        }
        expect(faults).toBeGreaterThan(0);
      });
    }
  });
}
