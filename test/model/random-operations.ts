// A slice of the random operations (test/support/random-operations.ts), for the files random-operations-*.test.ts, which run side by
// side. MODEL_FORMAT is the format, SEED the beginning of it all, MODEL_FIRST the hundred of images to begin with; with PROOF_JOBS that many
// processes run them.

import { afterAll, describe, test } from 'vitest';
import { PieceRunner } from '../support/piece-processes.ts';
import { hasQemu } from '../support/qemu.ts';
import { type ModelFigures, PIECE_IMAGES, type Subject, subjects } from '../support/random-operations.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';

const FORMAT = process.env['MODEL_FORMAT'] ?? '';
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const FIRST = Number(process.env['MODEL_FIRST'] ?? 0);

interface Figures extends ModelFigures {
  kinds: number;
  last: number;
  cpuSeconds: number;
}

/** @param wanted which of the kinds of image, by name */
export function describeRandomOperations(wanted: (name: string) => boolean): void {
  const chosen = subjects.filter(({ name }) => wanted(name) && name.startsWith(FORMAT));
  if (chosen.length === 0) return;
  const figures = new Map<string, Figures>();
  const runner = new PieceRunner();
  afterAll(() => {
    runner.close();
    for (const [format, { cpuSeconds, images, judged, kinds, last, operations }] of figures) {
      console.log(
        `${format}: ${operations} operations on ${images} images of ${kinds} kinds, every byte as in the model, every image clean; ` +
          `qemu-img check and compare agree on ${judged} of them (${Math.round(cpuSeconds)} s of CPU time, ` +
          `seed ${SEED}, hundreds ${FIRST} to ${last})`,
      );
    }
  });
  for (const subject of chosen) {
    const { name } = subject.format;
    const before = figures.get(name);
    const known = before ?? { operations: 0, images: 0, judged: 0, kinds: 0, last: 0, cpuSeconds: 0 };
    figures.set(name, known);
    describeSubject(subject, known, runner);
  }
}

function describeSubject(subject: Subject, figures: Figures, runner: PieceRunner): void {
  const { name } = subject.format;
  const [images, judged] = [sliceOf('model', name), sliceOf('judged', name)];
  describe(`random operations on ${subject.name}`, () => {
    test(`read back as a byte array does, and leave a clean image (seed ${SEED})`, {
      timeout: 36_000_000,
    }, async (context) => {
      if (judged > 0) requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
      const kind = subjects.indexOf(subject);
      const begin = runner.cpuSeconds();
      /** of the hundred of this number, how many belong to a run of so many */
      const partOf = (total: number, number: number) =>
        Math.max(0, Math.min(PIECE_IMAGES, total - (number - FIRST) * PIECE_IMAGES));
      const next = await runner.run(
        FIRST,
        (number) => {
          const part = partOf(images, number);
          const piece = { proof: 'images' as const, kind, number, seed: SEED, images: part };
          return part === 0 ? null : { ...piece, judged: partOf(judged, number) };
        },
        (done) => {
          figures.operations += done.operations;
          figures.images += done.images;
          figures.judged += done.judged;
        },
      );
      figures.kinds++;
      figures.last = next - 1;
      figures.cpuSeconds += runner.cpuSeconds() - begin;
    });
  });
}
