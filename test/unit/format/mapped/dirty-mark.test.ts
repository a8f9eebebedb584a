// The bit that says "not clean" is made durable without the metadata lock, and cleared only when nothing has changed since the
// fdatasync before: requests that need no bit are served meanwhile, and one that changes metadata keeps it set (R7).

import { afterEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { listenToFailpoints } from '../../../../src/concurrency/failpoints.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import type { WritableFormat, WritableImage } from '../../../../src/format/image-format.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { watchLockHolds } from '../../../support/lock-holds.ts';
import type { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { FaultyHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 65536;

interface Case {
  readonly format: WritableFormat;
  readonly options: Readonly<Record<string, string>>;
  readonly isMarked: (file: MemoryHostFile) => boolean;
}

const CASES: readonly Case[] = [
  { format: qed, options: {}, isMarked: (file) => (file.bytes()[16]! & 2) !== 0 },
  { format: qcow2, options: { lazy_refcounts: 'on' }, isMarked: (file) => (file.bytes()[79]! & 1) !== 0 },
];

afterEach(() => listenToFailpoints(null));

/** One cluster with data in a clean image, and a second object over the same state, as another thread has it. */
function opened({ format, options }: Case) {
  const file = createMemoryImage(format, 2 ** 28, options);
  let fail = false;
  const holds = watchLockHolds(
    new FaultyHostFile(file, (operation) => (fail && operation === 'sync' ? ERRNO.EIO : null)),
  );
  const image = openImage(format, holds.file, { slots: 2 });
  const other = format.attach(holds.file, image.share(), {
    ...{ slot: 1, backing: null, extents: [], log: () => undefined },
  });
  write(image, 0, 1);
  image.makeClean();
  holds.reset();
  return { file, holds, image, other, failSyncs: () => (fail = true) };
}

function write(image: WritableImage, cluster: number, value: number): void {
  image.write(new Uint8Array(CLUSTER).fill(value), 0, CLUSTER, guestOffset(cluster * CLUSTER));
}

function byteAt(image: WritableImage, cluster: number): number {
  const bytes = new Uint8Array(1);
  image.read(bytes, 0, 1, guestOffset(cluster * CLUSTER));
  return bytes[0]!;
}

/** Runs `action` once, at the fdatasync of a moment that `when` picks. */
function atSync(when: () => boolean, action: () => void): { readonly times: number } {
  const seen = { times: 0 };
  listenToFailpoints((failpoint) => {
    if (failpoint !== 'flush' || seen.times > 0 || !when()) return;
    seen.times++;
    listenToFailpoints(null);
    action();
  });
  return seen;
}

/** Reads and writes in place through another object: each would wait for ever for a lock that is held. */
function useInPlace(other: WritableImage, value: number): void {
  expect(byteAt(other, 0)).toBeGreaterThan(0);
  write(other, 0, value);
  expect(byteAt(other, 0)).toBe(value);
}

describe.each(CASES)('the mark of $format.name', (kind) => {
  const { format, isMarked } = kind;

  test('is set and cleared without an fdatasync under the metadata lock', () => {
    const { file, holds, image } = opened(kind);
    expect(isMarked(file)).toBe(false);
    write(image, 5, 2);
    expect(isMarked(file)).toBe(true);
    image.discard(guestOffset(0), CLUSTER);
    image.makeClean();
    expect(isMarked(file)).toBe(false);
    write(image, 7, 2);
    image.close();
    expect(isMarked(file)).toBe(false);
    expect(holds.syncs).toBe(0);
  });

  test('is durable before the change that needs it, and others are served meanwhile', () => {
    const { file, image, other } = opened(kind);
    const seen = atSync(
      () => isMarked(file),
      () => {
        expect(image.map(guestOffset(5 * CLUSTER), CLUSTER).status).not.toBe('data');
        useInPlace(other, 9);
      },
    );
    write(image, 5, 2);
    expect(seen.times).toBe(1);
    expect([byteAt(image, 0), byteAt(image, 5)]).toEqual([9, 2]);
  });

  test('stays set when metadata changes between the fdatasync and the clear', () => {
    const { file, image, other } = opened(kind);
    write(image, 5, 2);
    image.flush();
    image.flush();
    const seen = atSync(
      () => isMarked(file),
      () => write(other, 6, 3),
    );
    image.makeClean();
    expect(seen.times).toBe(1);
    expect(isMarked(file)).toBe(true);
    expect(image.details().dirty).toBe(true);
    image.makeClean();
    expect(isMarked(file)).toBe(false);
    expect([byteAt(image, 5), byteAt(image, 6)]).toEqual([2, 3]);
    image.close();
    expect(checkImage(format, file, { repair: 'none', log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
  });

  test('serves requests that need no bit while the clear is made durable, and is set again by the next change', () => {
    const { file, image, other } = opened(kind);
    write(image, 5, 2);
    const seen = atSync(
      () => !isMarked(file),
      () => useInPlace(other, 8),
    );
    image.makeClean();
    expect(seen.times).toBe(1);
    expect(isMarked(file)).toBe(false);
    write(other, 6, 3);
    expect(isMarked(file)).toBe(true);
    image.close();
  });

  test('counts as set after a clear that could not be made durable', () => {
    const { file, image, failSyncs } = opened(kind);
    write(image, 5, 2);
    const seen = atSync(() => !isMarked(file), failSyncs);
    expect(() => image.makeClean()).toThrow();
    expect(seen.times).toBe(1);
    expect(image.failure()).not.toBe(null);
    expect(image.details().dirty).toBe(true);
    expect(() => image.close()).toThrow();
  });
});
