// Power cuts and failing host operations on VMDK images of several files, which lose what they were not asked to keep apart from
// each other.

import { describe, expect, test } from 'vitest';
import { FAULT_KINDS, failEverywhere } from '../support/faults.ts';
import { cutPower, noVerdict } from '../support/power-cut.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { markedBeforeChanged, SEVERAL_FILES } from '../support/vmdk-files.ts';
import { type GuestStep, prepare, randomSteps } from '../support/workloads.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
/** States come from so many workloads at least. */
const WORKLOADS = 8;

for (const [index, subject] of SEVERAL_FILES.entries()) {
  const { format, name } = subject;

  test(`power cuts on ${name} lose nothing that was flushed and leave nothing wrong (seed ${SEED})`, {
    timeout: 3_600_000,
  }, () => {
    const wanted = sliceOf('fileCuts');
    const random = seededRandom(SEED + index);
    const verdict = noVerdict();
    while (verdict.states < wanted && verdict.failures.length < 10) {
      const steps = fromTheFirstChange(randomSteps(random, 9));
      const kill =
        random() < 0.3 ? { killBefore: Math.floor(random() * steps.length), repairAfterKill: random() < 0.3 } : {};
      const prepared = prepare(subject, random);
      const invariant = markedBeforeChanged([prepared.start, ...prepared.beside]);
      // a size in the descriptor that the last extent does not have yet is a finding without a mark
      const promises = { onlyLeaks: false, marksDirty: true, reclaimsLeaks: true, invariant };
      cutPower({ format, ...prepared, steps, ...kill, ...promises }, random, verdict, Math.ceil(wanted / WORKLOADS));
    }
    const { states, distinct, lost, unrepaired, corrupt } = verdict;
    console.log(
      `${name}: ${states} states, ${distinct} of them distinct, ${lost} with lost sectors, ${unrepaired} unrepaired, ${corrupt} corrupt`,
    );
    expect(verdict.failures.slice(0, 3)).toEqual([]);
  });

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

/** What changes no byte of the disk changes no CID either: it comes later, or not at all. */
function fromTheFirstChange(steps: GuestStep[]): GuestStep[] {
  const first = steps.findIndex(({ kind }) => kind === 'write' || kind === 'zero');
  return first === -1 ? steps.filter(({ kind }) => kind !== 'copyUp') : steps.slice(first);
}
