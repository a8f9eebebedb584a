// A backing file may be on a server that takes long to answer. Whoever waits for it waits alone: the metadata lock of the
// image above is not held, and what says how large the image below is does not wait for its lock.

import { describe, expect, test, vi } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import type { WritableFormat, WritableImage } from '../../../../src/format/image-format.ts';
import { METADATA_LOCK } from '../../../../src/format/mapped/mapped-state.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const KIB = 1024;
const MIB = KIB * KIB;
const SIZE = 16 * 1024 * MIB;
const CLUSTER = 64 * KIB;
/** places of which no two lie in one table, here or below */
const [BASE_DATA, ELSEWHERE] = [guestOffset(4096 * MIB), guestOffset(4096 * MIB + 64 * MIB)];

const ACTIONS: readonly (readonly [name: string, act: (image: WritableImage) => void])[] = [
  ['a read', (image) => image.read(new Uint8Array(4096), 0, 4096, BASE_DATA)],
  ['a write', (image) => image.write(new Uint8Array(1000).fill(1), 0, 1000, ELSEWHERE)],
  ['a preallocation', (image) => image.preallocate(ELSEWHERE, MIB)],
  ['a discard of whole clusters', (image) => image.discard(ELSEWHERE, MIB)],
  ['zeros over data of the backing file', (image) => image.writeZeroes(BASE_DATA, MIB)],
  ['zeros in a part of a cluster', (image) => image.writeZeroes(ELSEWHERE, 1000)],
  ['a copy from below', (image) => image.copyUp(BASE_DATA, MIB)],
  ['a larger size', (image) => image.resize(SIZE)],
];

/** What is done without a look below where an entry says that a cluster is zeros, whatever is there. */
const FREE_WITH_ZEROS = ['a discard of whole clusters', 'zeros over data of the backing file', 'a larger size'];

const VARIANTS: readonly (readonly [
  name: string,
  format: WritableFormat,
  options: Readonly<Record<string, string>>,
])[] = [
  ['qed', qed, {}],
  ['qcow2', qcow2, {}],
  ['qcow2 with extended L2 entries', qcow2, { extended_l2: 'on' }],
  ['qcow2 version 2', qcow2, { compat: '0.10' }],
  ['VDI', vdi, { block_size: '64k' }],
  ['VHD', vpc, { block_size: '64k' }],
  ['VMDK', vmdk, { grain_size: '64k' }],
  ['VMDK with entries of zeros', vmdk, { grain_size: '64k', zeroed_grain: 'on' }],
];

describe.each(VARIANTS)('over a slow backing file, of %s', (_name, format, options) => {
  test.each(ACTIONS)('%s does not hold the metadata lock while it waits', (name, act) => {
    const { image, base, lock, onRead } = overlay(format, options);
    image.flush();
    const held: boolean[] = [];
    onRead(() => held.push(Atomics.load(lock, METADATA_LOCK) !== 0));
    act(image);
    onRead(() => undefined);
    const isFree = (format === vdi || 'zeroed_grain' in options) && FREE_WITH_ZEROS.includes(name);
    expect(held.length > 0).toBe(!isFree);
    expect(held.filter(Boolean)).toEqual([]);
    image.close();
    base.close();
  });

  test('the size of the backing file is known while its lock is held', () => {
    const { base } = overlay(format, options);
    const lock = vi.spyOn(Mutex.prototype, 'lock');
    try {
      expect(base.virtualSize()).toBe(SIZE);
      expect(lock).not.toHaveBeenCalled();
    } finally {
      lock.mockRestore();
    }
  });
});

interface LockedState {
  readonly words: SharedArrayBuffer;
}

/** An overlay of half the size of its backing file, which has one cluster of data and none of its tables in the cache. */
function overlay(format: WritableFormat, options: Readonly<Record<string, string>>) {
  const create = { ...(format === qed || format === qcow2 ? { cluster_size: String(CLUSTER) } : {}), ...options };
  const baseFile = createMemoryImage(format, SIZE, create);
  const writer = openImage(format, baseFile);
  writer.write(new Uint8Array(CLUSTER).fill(7), 0, CLUSTER, BASE_DATA);
  writer.close();
  let read: () => void = () => undefined;
  const watched = baseFile.clone(true);
  const readFile = watched.read.bind(watched);
  watched.read = (...input) => {
    read();
    return readFile(...input);
  };
  const base = openImage(format, watched, { readOnly: true });
  const image = openImage(format, createMemoryImage(format, SIZE / 2, create, '/base'), { backing: base, slots: 2 });
  const whole = image.share().state as LockedState & { readonly extents?: readonly { readonly state: LockedState }[] };
  const { words } = whole.extents?.[0]?.state ?? whole;
  return {
    image,
    base,
    lock: new Int32Array(words),
    onRead: (action: () => void) => {
      read = action;
    },
  };
}
