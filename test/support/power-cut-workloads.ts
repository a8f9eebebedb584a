// The workloads of the simulated power cuts (power-cut.ts): each kind of image with what its format promises, and workloads that are
// numbered, each with a seed of its own, so that any of them can run alone.

import { roundDown, roundUp } from '../../src/bytes/offsets.ts';
import { qcow } from '../../src/format/qcow/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { vdi } from '../../src/format/vdi/index.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { WRITTEN_EXTENTS } from './extents.ts';
import { cutPower, noVerdict, type Verdict, type Workload } from './power-cut.ts';
import { seededRandom, seedOf } from './random.ts';
import { seededCrypto } from './seeded-crypto.ts';
import { markedBeforeChanged, SEVERAL_FILES } from './vmdk-files.ts';
import { type GuestStep, type Prepared, prepare, randomSteps, SUBJECTS, type Subject } from './workloads.ts';

const STEPS = 9;
/** of the kinds of image */
const LARGEST_CLUSTER = 16 * 1024;
/** of the workloads, those whose process is killed on the way */
const KILLED = 0.3;

type Promises = Pick<Workload, 'onlyLeaks' | 'marksDirty' | 'reclaimsLeaks' | 'invariant'>;

/** A kind of image whose power is cut. */
export interface CutKind {
  readonly subject: Subject;
  /** how many states of it are judged: a row of the table in slices.ts */
  readonly slice: 'cuts' | 'extentCuts' | 'fileCuts';
  steps(random: () => number): GuestStep[];
  promises(prepared: Prepared): Promises;
}

const steps = (subject: Subject) => (random: () => number) => randomSteps(random, STEPS, subject);

const ordinary = SUBJECTS.map((subject): CutKind => {
  const { format, marksDirty = false } = subject;
  const reclaimsLeaks = format === vdi || format === vhdx || format === qcow;
  const promises = { marksDirty, onlyLeaks: format === qcow2 || reclaimsLeaks, reclaimsLeaks };
  return { subject, slice: 'cuts', steps: steps(subject), promises: () => promises };
});

/** VMDK extents without a descriptor: kinds that qemu-img does not make, and tables that come into being. */
const extents = WRITTEN_EXTENTS.map(({ format, name, withBacking }): CutKind => {
  const subject = { name: `vmdk, ${name}`, format, options: {}, withBacking };
  return {
    subject,
    slice: 'extentCuts',
    steps: steps(subject),
    promises: () => ({ onlyLeaks: true, marksDirty: true, reclaimsLeaks: true }),
  };
});

/** VMDK images of several files, which lose what they were not asked to keep apart from each other. */
const severalFiles = SEVERAL_FILES.map(
  (subject): CutKind => ({
    subject,
    slice: 'fileCuts',
    steps: (random) => fromTheFirstChange(randomSteps(random, STEPS)),
    // a size in the descriptor that the last extent does not have yet is a finding without a mark
    promises: ({ start, beside }) => ({
      onlyLeaks: false,
      marksDirty: true,
      reclaimsLeaks: true,
      invariant: markedBeforeChanged([start, ...beside]),
    }),
  }),
);

export const CUT_KINDS: readonly CutKind[] = [...ordinary, ...extents, ...severalFiles];

/** @param number of the workload @param most states of it that are judged, about */
export function cutWorkload(kind: CutKind, seed: number, number: number, most: number): Verdict {
  const own = seedOf(seed, CUT_KINDS.indexOf(kind), number);
  return seededCrypto(own, () => runWorkload(kind, seededRandom(own), most));
}

function runWorkload(kind: CutKind, random: () => number, most: number): Verdict {
  const { subject } = kind;
  const guestSteps = kind.steps(random);
  const kill = random() < KILLED ? addKill(guestSteps, random) : {};
  const repairAfterKill = subject.format.check !== undefined && random() < 0.3;
  const prepared = prepare(subject, random);
  const promises = kind.promises(prepared);
  const verdict = noVerdict();
  const workload = { format: subject.format, ...prepared, steps: guestSteps, ...kill, repairAfterKill, ...promises };
  cutPower(workload, random, verdict, most);
  return verdict;
}

/** Somewhere on the way; half of the time just after what was written last is gone again, but not for certain. */
function addKill(guestSteps: GuestStep[], random: () => number): { readonly killBefore: number } {
  const at = Math.floor(random() * guestSteps.length);
  const written = guestSteps.slice(0, at).findLast((step) => step.kind === 'write');
  if (written?.kind !== 'write' || random() < 0.5) return { killBefore: at };
  const [start, end] = [roundDown(written.at, LARGEST_CLUSTER), roundUp(written.at + written.length, LARGEST_CLUSTER)];
  guestSteps.splice(at, 0, { kind: 'flush' }, { kind: 'discard', at: start, length: end - start, value: 0 });
  return { killBefore: at + 2 };
}

/** What changes no byte of the disk changes no CID either: it comes later, or not at all. */
function fromTheFirstChange(guestSteps: GuestStep[]): GuestStep[] {
  const first = guestSteps.findIndex(({ kind }) => kind === 'write' || kind === 'zero');
  return first === -1 ? guestSteps.filter(({ kind }) => kind !== 'copyUp') : guestSteps.slice(first);
}
