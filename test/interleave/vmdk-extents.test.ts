// One request on an extent against another, at every moment at which the first one lets others in: two objects over the state of one
// extent, as two threads have them, the second called from within a host operation of the first. It is one thread all the same, so the
// extent is marked and has room before: nobody waits for a lock that the first request holds.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { cowd } from '../../src/format/vmdk/cowd/index.ts';
import type { WritableExtent } from '../../src/format/vmdk/extent.ts';
import { sparse } from '../../src/format/vmdk/sparse/index.ts';
import { checkExtent, isSame, openExtent, readAll } from '../support/extents.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { contentOf, cowdBytes, NONE, placesOf, type SparseRecipe, sparseBytes } from '../support/vmdk-bytes.ts';
import { FaultyHostFile } from '../support/wrapping-files.ts';

const GRAIN = 4096;
/** The grains of the first request, and those of the second: no two requests in one thread may want the same ones. */
const [FIRST, SECOND] = [4, 9];
const RECIPE: SparseRecipe = { entries: [0, 1, 2, 3], capacity: 300 * 8, lazy: [1, 2] };

type Request = (image: WritableExtent, grain: number) => void;

const write =
  (count: number, at = 0): Request =>
  (image, grain) =>
    image.write(Buffer.alloc(count * GRAIN, grain), 0, count * GRAIN, guestOffset((grain + at) * GRAIN));
const REQUESTS: Readonly<Record<string, Request>> = {
  'an allocating write': write(2),
  'a write that needs a new table': write(2, 128),
  'a discard': (image, grain) => image.discard(guestOffset((grain % 4) * GRAIN), GRAIN),
  'space for grains': (image, grain) => image.preallocate(guestOffset(grain * GRAIN), 2 * GRAIN),
  'a flush': (image) => image.flush(),
};

interface Subject {
  readonly name: string;
  readonly kind: typeof sparse | typeof cowd;
  readonly bytes: Buffer;
  /** where data begins */
  readonly data: number;
  readonly isOverlay: boolean;
}

const sectors = Array.from({ length: 32 }, (_, i) => i);
const SUBJECTS: readonly Subject[] = [
  {
    name: 'a sparse extent',
    kind: sparse,
    bytes: sparseBytes(RECIPE),
    data: placesOf(RECIPE).data * 512,
    isOverlay: false,
  },
  {
    name: 'a sparse extent over a parent',
    kind: sparse,
    bytes: sparseBytes(RECIPE),
    data: placesOf(RECIPE).data * 512,
    isOverlay: true,
  },
  {
    name: 'a COWD extent',
    kind: cowd,
    bytes: cowdBytes({ entries: sectors, capacity: 10_000 }),
    data: 37 * 512,
    isOverlay: false,
  },
];

describe.each(SUBJECTS)('$name', ({ kind, bytes, data, isOverlay }) => {
  const below: SparseRecipe = { entries: Array.from({ length: 300 }, (_, i) => (i % 5 === 0 ? NONE : i)) };
  const base = sparseBytes(below);

  /** Runs `first`, and `second` within its host operation with that number. @returns whether it had so many, and what the disk reads */
  function run(first: Request, second: Request | null, position: number) {
    const memory = new MemoryHostFile(bytes, '/disk.vmdk');
    const backing = isOverlay
      ? openExtent(sparse, new MemoryHostFile(base, '/base.vmdk', true), { readOnly: true })
      : null;
    let words: Int32Array | null = null;
    let count = Number.NEGATIVE_INFINITY;
    let reached = false;
    const file = new FaultyHostFile(memory, (operation, _count, offset) => {
      const isData = (operation === 'write' && offset >= data) || operation === 'punch-hole';
      const isMoment = isData || (operation === 'sync' && second !== REQUESTS['a flush']);
      if (words?.[0] !== 0 || !isMoment || count++ !== position) return null;
      reached = true;
      count = Number.NEGATIVE_INFINITY;
      second?.(other, SECOND);
      return null;
    });
    const image = openExtent(kind, file, { backing, slots: 2 });
    const other = kind.attach(file, image.share().state, { slot: 1, backing, log: () => undefined });
    words = new Int32Array((image.share().state as { words: SharedArrayBuffer }).words);
    write(1)(image, 60);
    count = 0;
    first(image, FIRST);
    count = Number.NEGATIVE_INFINITY;
    if (!reached) second?.(other, SECOND);
    const before = readAll(image);
    expect(isSame(readAll(other), before)).toBe(true);
    image.flush();
    const crashed = openExtent(kind, memory.clone(), { backing });
    expect(isSame(readAll(crashed), before)).toBe(true);
    image.close();
    expect(checkExtent(kind, memory)).toMatchObject({ corruptions: 0, leaks: 0, said: [] });
    return { reached, content: before };
  }

  test.each(
    Object.keys(REQUESTS).flatMap((first) => Object.keys(REQUESTS).map((second) => [first, second] as const)),
  )('%s, and %s at every moment of it', (first, second) => {
    const wanted = run(REQUESTS[first]!, REQUESTS[second]!, Number.POSITIVE_INFINITY).content;
    let position = 0;
    while (position < 100) {
      const { content, reached } = run(REQUESTS[first]!, REQUESTS[second]!, position++);
      expect(isSame(content, wanted), `operation ${position}`).toBe(true);
      if (!reached) break;
    }
    expect(isSame(contentOf(RECIPE), wanted)).toBe(false);
  });
});
