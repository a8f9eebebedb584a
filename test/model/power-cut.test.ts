// A slice of the simulated power cuts (test/support/power-cut.ts); POWERCUT_RUNS raises the number of workloads.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import type { Image, ImageFormat } from '../../src/format/image-format.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { MemoryHostFile } from '../../src/host/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import { cutPower, type GuestStep, type Verdict } from '../support/power-cut.ts';
import { seededRandom } from '../support/random.ts';

const WORKLOADS = Number(process.env['POWERCUT_RUNS'] ?? 4);
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
/** Two L2 tables of 512 clusters of 4 KiB, the second one hardly used. */
const SIZE = 2 * 1024 * 1024 + 64 * 1024;
const SECTORS = SIZE / 512;

function randomSteps(random: () => number): GuestStep[] {
  const steps: GuestStep[] = [];
  for (let n = 0; n < 9; n++) {
    const pick = random();
    const area = random() < 0.7 ? 0 : SECTORS - 170;
    const at = (area + Math.floor(random() * 120)) * 512;
    const length = (1 + Math.floor(random() * 24)) * 512;
    if (pick < 0.5) steps.push({ kind: 'write', at, length, value: 1 + n });
    else if (pick < 0.65) steps.push({ kind: 'discard', at, length: length * 2, value: 0 });
    else if (pick < 0.7) steps.push({ kind: 'zero', at, length, value: 0 });
    else if (pick < 0.75) steps.push({ kind: 'preallocate', at, length, value: 0 });
    else if (pick < 0.92) steps.push({ kind: 'flush' });
    else steps.push({ kind: random() < 0.5 ? 'maintain' : 'makeClean' });
  }
  return steps;
}

/** An image with some data, closed clean, over nothing or over a raw file full of data. */
function prepare(
  { format, options, withBacking }: Subject,
  random: () => number,
): { start: MemoryHostFile; backing: Image | null; content: Uint8Array } {
  const content = new Uint8Array(SECTORS);
  let backing: Image | null = null;
  if (withBacking) {
    content.fill(200, 0, SECTORS - 100);
    const bytes = new Uint8Array(SIZE).map((_, i) => content[i >> 9]!);
    backing = openBase(bytes);
  }
  const start = createMemoryImage(format, SIZE, options, withBacking ? '/base' : undefined);
  const image = openImage(format, start, { backing });
  for (let n = 0; n < 6; n++) {
    const sector = Math.floor(random() * 100);
    image.write(new Uint8Array(4096).fill(100 + n), 0, 4096, guestOffset(sector * 512));
    content.fill(100 + n, sector, sector + 8);
  }
  image.close();
  return { start, backing, content };
}

function openBase(bytes: Uint8Array): Image {
  const file = createMemoryImage(qed, bytes.length, { cluster_size: '4k', table_size: '1' });
  const image = openImage(qed, file);
  image.write(bytes, 0, bytes.length, guestOffset(0));
  image.close();
  return openImage(qed, new MemoryHostFile(file.bytes(), '/base', true), { readOnly: true });
}

interface Subject {
  readonly name: string;
  readonly format: ImageFormat;
  readonly options: Readonly<Record<string, string>>;
  readonly withBacking: boolean;
}

const SUBJECTS: readonly Subject[] = [false, true].flatMap((withBacking) => [
  { name: 'QED', format: qed, options: { cluster_size: '4k', table_size: '1' }, withBacking },
  { name: 'qcow2 v3', format: qcow2, options: { cluster_size: '4k' }, withBacking },
  {
    name: 'qcow2 with subclusters',
    format: qcow2,
    options: { cluster_size: '16k', extended_l2: 'on' },
    withBacking,
  },
  { name: 'qcow2 lazy', format: qcow2, options: { cluster_size: '4k', lazy_refcounts: 'on' }, withBacking },
  { name: 'qcow2 v2', format: qcow2, options: { cluster_size: '4k', compat: '0.10' }, withBacking },
]);

describe.each(SUBJECTS)('power cuts on $name, with a backing file: $withBacking', (subject) => {
  test(`lose nothing that was flushed and leave nothing wrong (seed ${SEED})`, { timeout: 3_600_000 }, () => {
    const random = seededRandom(SEED + SUBJECTS.indexOf(subject));
    const verdict: Verdict = { states: 0, failures: [] };
    const { format, name, withBacking } = subject;
    for (let run = 0; run < WORKLOADS && verdict.failures.length === 0; run++) {
      const workload = {
        format,
        ...prepare(subject, random),
        steps: randomSteps(random),
        onlyLeaks: format === qcow2,
        marksDirty: name === 'qcow2 lazy',
      };
      cutPower(workload, random, verdict);
    }
    expect(verdict.failures.slice(0, 3)).toEqual([]);
    expect(verdict.states).toBeGreaterThan(WORKLOADS * 20);
    console.log(`${name}${withBacking ? ' with backing file' : ''}: ${verdict.states} crash states, nothing lost`);
  });
});
