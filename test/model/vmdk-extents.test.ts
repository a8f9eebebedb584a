// Power cuts and failing host operations on extents of VMDK images, without a descriptor: kinds that qemu-img does not make, and tables
// that come into being.

import { describe, expect, test } from 'vitest';
import { WRITTEN_EXTENTS } from '../support/extents.ts';
import { FAULT_KINDS, failEverywhere } from '../support/faults.ts';
import { cutPower, noVerdict } from '../support/power-cut.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { prepare, randomSteps } from '../support/workloads.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
/** States come from so many workloads at least. */
const WORKLOADS = 8;

for (const [index, { format, name, withBacking }] of WRITTEN_EXTENTS.entries()) {
  const subject = { name, format, options: {}, withBacking };

  test(`power cuts on ${name} lose nothing that was flushed and leave nothing wrong (seed ${SEED})`, {
    timeout: 3_600_000,
  }, () => {
    const wanted = sliceOf('extentCuts', 'vmdk');
    const random = seededRandom(SEED + index);
    const verdict = noVerdict();
    while (verdict.states < wanted && verdict.failures.length < 10) {
      const steps = randomSteps(random, 9);
      const kill =
        random() < 0.3 ? { killBefore: Math.floor(random() * steps.length), repairAfterKill: random() < 0.3 } : {};
      const promises = { onlyLeaks: true, marksDirty: true, reclaimsLeaks: true };
      const workload = { format, ...prepare(subject, random), steps, ...kill, ...promises };
      cutPower(workload, random, verdict, Math.ceil(wanted / WORKLOADS));
    }
    const { states, distinct, lost, unrepaired, corrupt } = verdict;
    console.log(
      `${name}: ${states} states, ${distinct} of them distinct, ${lost} with lost sectors, ${unrepaired} unrepaired, ${corrupt} corrupt`,
    );
    expect(verdict.failures.slice(0, 3)).toEqual([]);
  });

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
