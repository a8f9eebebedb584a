// A slice of the simulated power cuts (test/support/power-cut.ts), for the files power-cut-*.test.ts, which run side by side.
// POWERCUT_FORMAT is a format or a part of the names of subjects, SEED the beginning.

import { describe, expect, test } from 'vitest';
import { roundDown, roundUp } from '../../src/bytes/offsets.ts';
import { formats } from '../../src/disk/registry.ts';
import { qcow } from '../../src/format/qcow/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { vdi } from '../../src/format/vdi/index.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { cutPower, noVerdict } from '../support/power-cut.ts';
import { hasQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { type GuestStep, prepare, randomSteps, SUBJECTS, type Subject } from '../support/workloads.ts';

const FORMAT = process.env['POWERCUT_FORMAT'] ?? '';
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
/** States come from so many workloads at least. */
const WORKLOADS = 12;
const STEPS = 9;
/** of the kinds of image */
const LARGEST_CLUSTER = 16 * 1024;
/** of the workloads, those whose process is killed on the way */
const KILLED = 0.3;

/** @param wanted which of the subjects, by name */
export function describePowerCuts(wanted: (name: string) => boolean): void {
  for (const [index, subject] of SUBJECTS.entries()) {
    if (wanted(subject.name) && isChosen(subject)) describeSubject(index, subject);
  }
}

/** FORMAT is the name of a format, or a part of the names of some kinds of image. */
function isChosen({ name, format }: Subject): boolean {
  return formats.some((each) => each.name === FORMAT) ? format.name === FORMAT : name.includes(FORMAT);
}

function describeSubject(index: number, subject: Subject): void {
  const wanted = sliceOf('cuts', subject.format.name);
  describe(`power cuts on ${subject.name}`, () => {
    test(`lose nothing that was flushed and leave nothing wrong (seed ${SEED})`, { timeout: 36_000_000 }, (context) => {
      if (subject.withSnapshot === true) requireOrSkip(context, hasQemu, 'qemu-img');
      const random = seededRandom(SEED + index);
      const verdict = noVerdict();
      const { format, marksDirty = false } = subject;
      const begin = process.cpuUsage();
      while (verdict.states < wanted && verdict.failures.length < 10) {
        const steps = randomSteps(random, STEPS, subject);
        const kill = random() < KILLED ? addKill(steps, random) : {};
        const repairAfterKill = format.check !== undefined && random() < 0.3;
        const workload = { format, ...prepare(subject, random), steps, marksDirty, ...kill, repairAfterKill };
        const reclaimsLeaks = format === vdi || format === vhdx || format === qcow;
        const promises = { onlyLeaks: format === qcow2 || reclaimsLeaks, reclaimsLeaks };
        cutPower({ ...workload, ...promises }, random, verdict, Math.ceil(wanted / WORKLOADS));
      }
      const { user, system } = process.cpuUsage(begin);
      const rate = Math.round((verdict.states * 1e6) / (user + system));
      const { states, distinct, lost, unrepaired, corrupt } = verdict;
      console.log(
        `${subject.name}: ${states} states, ${distinct} of them distinct, ${lost} with lost sectors, ${unrepaired} unrepaired, ` +
          `${corrupt} corrupt (${rate} in a second of CPU time)`,
      );
      expect(verdict.failures.slice(0, 3)).toEqual([]);
    });
  });
}

/** Somewhere on the way; half of the time just after what was written last is gone again, but not for certain. */
function addKill(steps: GuestStep[], random: () => number): { readonly killBefore: number } {
  const at = Math.floor(random() * steps.length);
  const written = steps.slice(0, at).findLast((step) => step.kind === 'write');
  if (written?.kind !== 'write' || random() < 0.5) return { killBefore: at };
  const [start, end] = [roundDown(written.at, LARGEST_CLUSTER), roundUp(written.at + written.length, LARGEST_CLUSTER)];
  steps.splice(at, 0, { kind: 'flush' }, { kind: 'discard', at: start, length: end - start, value: 0 });
  return { killBefore: at + 2 };
}
