// Every named step of a request fails, once or from then on, with EIO or for want of space (the situations of QEMU's test
// 026 and more): the request fails and no other, memory stays what the disk is, and the image has leaks at worst.

import { afterEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { FAILPOINTS, type Failpoint, listenToFailpoints } from '../../src/concurrency/failpoints.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import type { WritableImage } from '../../src/format/image-format.ts';
import { besideIt, checkImage, openImage } from '../support/memory-images.ts';
import { seededRandom } from '../support/random.ts';
import { reusingSharedMemory } from '../support/reused-memory.ts';
import {
  type GuestStep,
  type Prepared,
  prepare,
  runStep,
  SECTOR,
  SECTORS,
  SIZE,
  SUBJECTS,
  type Subject,
} from '../support/workloads.ts';

/** Steps that only look, or wait: nothing of the disk depends on them. */
const LOOKING: readonly Failpoint[] = ['l1-load', 'l2-load', 'refcount-load', 'reservation-wait'];

/** Subjects whose disk lies in the file as it is: a write of data is no step of theirs. */
const WITHOUT_TABLES: readonly string[] = ['raw', 'vpc, fixed', 'vmdk, flat'];

const STEPS: readonly GuestStep[] = [
  { kind: 'write', at: 300 * SECTOR, length: 3 * SECTOR, value: 1 },
  { kind: 'write', at: 0, length: 5000 - (5000 % SECTOR), value: 2 },
  { kind: 'write', at: (SECTORS - 40) * SECTOR, length: SECTOR, value: 3 },
  { kind: 'flush' },
  { kind: 'discard', at: 0, length: 8192, value: 0 },
  { kind: 'zero', at: 301 * SECTOR, length: SECTOR, value: 0 },
  { kind: 'flush' },
  { kind: 'write', at: 340 * SECTOR, length: 20 * SECTOR, value: 4 },
  { kind: 'flush' },
];

const FAILURES = [
  ['EIO', 'once'],
  ['EIO', 'always'],
  ['ENOSPC', 'once'],
  ['ENOSPC', 'always'],
] as const;

afterEach(() => listenToFailpoints(null));

for (const subject of SUBJECTS) {
  describe(`a step that fails on ${subject.name}`, () => {
    for (const [errno, times] of FAILURES) {
      test(`with ${errno}, ${times}: the request fails, memory is the disk, leaks at worst`, () => {
        const reached = new Set<Failpoint>();
        const prepared = prepare(subject, seededRandom(7));
        for (const failpoint of FAILPOINTS.filter((each) => !LOOKING.includes(each))) {
          const fails = (skip: number) =>
            reusingSharedMemory(() => failAt(subject.format, prepared, failpoint, skip, errno, times));
          for (let skip = 0; fails(skip); skip++) reached.add(failpoint);
        }
        expect(reached.has('data-write') || WITHOUT_TABLES.includes(subject.name)).toBe(true);
      });
    }
  });
}

const SEEN = new Uint8Array(SIZE);
const AGAIN = new Uint8Array(SIZE);

/** @returns whether the step was reached more than `skip` times */
function failAt(
  format: Subject['format'],
  { start: first, beside: others, backing, content }: Prepared,
  failpoint: Failpoint,
  skip: number,
  errno: 'EIO' | 'ENOSPC',
  times: 'once' | 'always',
): boolean {
  const start = first.clone();
  const files = others.map((each) => each.clone());
  const options = { backing, tableCacheBytes: 8192, beside: files };
  const image = openImage(format, start, options);
  const where = `${failpoint} after ${skip}, ${errno} ${times}`;
  const legal = Array.from(content, (value) => new Set([value]));
  let count = 0;
  listenToFailpoints((each) => {
    if (each !== failpoint) return;
    const number = count++;
    if (number < skip || (number > skip && times === 'once')) return;
    throw new ImgfuseError(errno === 'EIO' ? 'io' : 'no-space', `${each} fails by plan`, {});
  });
  for (const step of STEPS) {
    let succeeded = true;
    try {
      runStep(image, step);
    } catch (error) {
      succeeded = false;
      expect(error, where).toBeInstanceOf(ImgfuseError);
    }
    if ('at' in step) {
      for (let sector = step.at / SECTOR; sector < (step.at + step.length) / SECTOR; sector++) {
        if (succeeded) legal[sector]!.clear();
        legal[sector]!.add(step.value);
      }
    }
  }
  listenToFailpoints(null);
  readInto(SEEN, image, legal, where);
  if (errno === 'ENOSPC' && failpoint !== 'flush') expect(image.failure(), where).toBeNull();
  const failed = image.failure() !== null;
  try {
    image.close();
    expect(failed, `${where}: closed as if it were clean`).toBe(false);
  } catch (error) {
    expect(failed, `${where}: ${(error as Error).message}`).toBe(true);
  }
  if (format.check === undefined) return count > skip;
  const findings: string[] = [];
  const beside = besideIt(files);
  const log = (text: string) => findings.push(text);
  const { corruptions } = checkImage(format, start.clone(), { repair: 'none', log, ...beside });
  expect(
    corruptions > 0 && !format.inspect(start, undefined, beside.openExtent).dirty,
    `${where}: ${findings.join('; ')}`,
  ).toBe(false);
  const again = openImage(format, start, options);
  // a disk that failed may have lost what was not flushed, and nothing else
  if (!failed) {
    readInto(AGAIN, again, legal, where);
    expect(Buffer.compare(AGAIN, SEEN), where).toBe(0);
  }
  again.close();
  return count > skip;
}

function readInto(bytes: Uint8Array, image: WritableImage, legal: readonly Set<number>[], where: string): void {
  image.read(bytes, 0, SIZE, guestOffset(0));
  const wrong = legal.findIndex((values, sector) => !values.has(bytes[sector * SECTOR]!));
  expect(wrong, `first sector that reads what nobody wrote, ${where}`).toBe(-1);
}
