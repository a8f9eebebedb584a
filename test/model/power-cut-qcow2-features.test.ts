// Power cuts on qcow2 images with subclusters, with a data file, or with a snapshot.

import { expect, test } from 'vitest';
import { cutPower, noVerdict } from '../support/power-cut.ts';
import { hasQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { type GuestStep, prepare, SUBJECTS } from '../support/workloads.ts';
import { describePowerCuts } from './power-cuts.ts';

describePowerCuts(({ subject: { name } }) => /subclusters|data file|snapshot/.test(name));

test('a discard in an L2 table that a snapshot shares lowers no counter before the L1 entry of the copy is durable', (context) => {
  requireOrSkip(context, hasQemu, 'qemu-img');
  const subject = SUBJECTS.find(({ name }) => name === 'qcow2 with a snapshot')!;
  const random = seededRandom(1);
  const verdict = noVerdict();
  const steps: GuestStep[] = [
    { kind: 'discard', at: 0, length: 64 * 1024, value: 0 },
    { kind: 'maintain' },
    { kind: 'flush' },
  ];
  cutPower(
    { format: subject.format, ...prepare(subject, random), steps, onlyLeaks: true, marksDirty: false },
    random,
    verdict,
  );
  expect(verdict.failures.slice(0, 3)).toEqual([]);
});
