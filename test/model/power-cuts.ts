// A slice of the simulated power cuts (test/support/power-cut.ts), for the files power-cut-*.test.ts, which run side by side.
// POWERCUT_FORMAT is a format or a part of the names of subjects, SEED the beginning, POWERCUT_FIRST the number of the workload to
// begin with; with PROOF_JOBS that many processes run them.

import { afterAll, describe, expect, test } from 'vitest';
import { formats } from '../../src/disk/registry.ts';
import { PieceRunner } from '../support/piece-processes.ts';
import { noVerdict } from '../support/power-cut.ts';
import { CUT_KINDS, type CutKind } from '../support/power-cut-workloads.ts';
import { hasQemu } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import type { Subject } from '../support/workloads.ts';

const FORMAT = process.env['POWERCUT_FORMAT'] ?? '';
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const FIRST = Number(process.env['POWERCUT_FIRST'] ?? 0);
/** States come from so many workloads at least. */
const WORKLOADS = 12;
/** Of one workload, however many are asked for: another workload shows more than the last states of one. */
const MOST_OF_ONE = 10_000;

/** @param wanted which of the kinds of image */
export function describePowerCuts(wanted: (kind: CutKind) => boolean): void {
  const runner = new PieceRunner();
  afterAll(() => runner.close());
  for (const kind of CUT_KINDS) {
    const { slice, subject } = kind;
    if (wanted(kind) && isChosen(subject)) describeKind(kind, sliceOf(slice, subject.format.name), runner);
  }
}

/** FORMAT is the name of a format, or a part of the names of some kinds of image. */
function isChosen({ name, format }: Subject): boolean {
  return formats.some((each) => each.name === FORMAT) ? format.name === FORMAT : name.includes(FORMAT);
}

function describeKind(kind: CutKind, wanted: number, runner: PieceRunner): void {
  const { subject } = kind;
  describe(`power cuts on ${subject.name}`, () => {
    test(`lose nothing that was flushed and leave nothing wrong (seed ${SEED})`, {
      timeout: 36_000_000,
    }, async (context) => {
      if (subject.withSnapshot === true) requireOrSkip(context, hasQemu, 'qemu-img');
      const verdict = noVerdict();
      const begin = runner.cpuSeconds();
      const most = Math.min(MOST_OF_ONE, Math.ceil(wanted / WORKLOADS));
      const next = await runner.run(
        FIRST,
        (number) => {
          if (verdict.states >= wanted || verdict.failures.length >= 10) return null;
          return { proof: 'cuts' as const, kind: CUT_KINDS.indexOf(kind), number, seed: SEED, most };
        },
        (part) => {
          for (const each of ['states', 'distinct', 'lost', 'unrepaired', 'corrupt'] as const)
            verdict[each] += part[each];
          verdict.failures.push(...part.failures);
        },
      );
      const seconds = runner.cpuSeconds() - begin;
      const { states, distinct, lost, unrepaired, corrupt } = verdict;
      console.log(
        `${subject.name}: ${states} states, ${distinct} of them distinct, ${lost} with lost sectors, ${unrepaired} unrepaired, ` +
          `${corrupt} corrupt (${Math.round(states / seconds)} in a second of CPU time, ${Math.round(seconds)} s; ` +
          `seed ${SEED}, workloads ${FIRST} to ${next - 1})`,
      );
      expect(verdict.failures.slice(0, 3)).toEqual([]);
    });
  });
}
