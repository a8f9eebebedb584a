// Damaged qcow2 images, twice: what is wrong already when the image is opened refuses the read-write open with a sentence and
// changes no byte; what goes wrong while it is open is found before it does harm, marks the image corrupt and ends all
// writing. Either way everything outside the damage reads as before.

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import { ERRNO, errnoOf } from '../../src/errors/index.ts';
import type { WritableImage } from '../../src/format/image-format.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../support/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import {
  COMPRESSED,
  COPIED,
  get64,
  type Places,
  placesOf,
  put32,
  put64,
  putCounter16,
} from '../support/qcow2-bytes.ts';

const CLUSTER = 4096;
const CLUSTERS = 600;
/** The first clusters of both L2 tables, which map 512 clusters each, are damaged; this one is left alone. */
const ELSEWHERE = 520;

type Damage = (file: MemoryHostFile, places: Places) => void;
type Step = (image: WritableImage) => void;

const writeAt =
  (cluster: number): Step =>
  (image) =>
    image.write(new Uint8Array(512).fill(99), 0, 512, guestOffset(cluster * CLUSTER));
const discardAt =
  (cluster: number): Step =>
  (image) =>
    image.discard(guestOffset(cluster * CLUSTER), CLUSTER);
const readAt =
  (cluster: number): Step =>
  (image) =>
    image.read(new Uint8Array(512), 0, 512, guestOffset(cluster * CLUSTER));
/** Everything that a step put off is carried out. */
const flushed =
  (step: Step): Step =>
  (image) => {
    step(image);
    image.flush();
    image.flush();
  };

interface Scenario {
  readonly name: string;
  readonly damage: Damage;
  /** of the refusal of a read-write open; null where the image is opened all the same */
  readonly atOpen: RegExp | null;
  /** what finds the damage in an open image, and its sentence */
  readonly step?: Step;
  readonly later?: RegExp;
}

const SCENARIOS: readonly Scenario[] = [
  {
    name: 'an L1 entry refers to the L1 table',
    damage: (file, { l1 }) => put64(file, l1, COPIED | BigInt(l1)),
    atOpen: /something else refers to the clusters of the active L1 table/,
    step: writeAt(0),
    later: /L1 entry 0 at offset 0x[0-9a-f]+ is 0x[0-9a-f]+, which is not a cluster of this file/,
  },
  {
    name: 'an L1 entry refers to a data cluster',
    damage: (file, { l1, data }) => put64(file, l1, COPIED | BigInt(data)),
    atOpen: /the zero entry at offset 0x[0-9a-f]+ keeps 0x1010101010000, which is not a cluster/,
    step: writeAt(0),
    later: /an active L2 table is looked for at 0x[0-9a-f]+, where none is/,
  },
  {
    name: 'an L1 entry is not aligned',
    damage: (file, { l1, l2 }) => put64(file, l1, COPIED | BigInt(l2 + 512)),
    atOpen: /L1 entry 0 at offset 0x3000 refers to 0x[0-9a-f]+200, which is not a cluster of this file/,
    step: readAt(0),
    later: /L1 entry 0 at offset 0x3000 is .* which is not a cluster of this file/,
  },
  {
    name: 'an L1 entry lies behind the end of the file',
    damage: (file, { l1 }) => put64(file, l1, COPIED | BigInt(2 ** 40)),
    atOpen: /refers to 0x10000000000, which is not a cluster/,
    step: discardAt(0),
    later: /L1 entry 0 .* is not a cluster of this file/,
  },
  {
    name: 'an L1 entry has reserved bits',
    damage: (file, { l1, l2 }) => put64(file, l1, COPIED | BigInt(l2) | (1n << 58n)),
    atOpen: /L1 entry 0 at offset 0x3000 has reserved bits set/,
  },
  {
    name: 'two L1 entries refer to one L2 table',
    damage: (file, { l1 }) => put64(file, l1, get64(file, l1 + 8)),
    atOpen: /has refcount 1 and 2 references/,
  },
  {
    name: 'an L2 entry refers to the header by its COPIED flag alone',
    damage: (file, { l2 }) => put64(file, l2, COPIED),
    atOpen: null,
  },
  {
    name: 'an L2 entry refers to the refcount table',
    damage: (file, { l2, refcountTable }) => put64(file, l2, COPIED | BigInt(refcountTable)),
    atOpen: /something else refers to the refcount structures|has refcount 1 and 2 references/,
    step: writeAt(0),
    later: /L2 entry 0 at offset 0x[0-9a-f]+ is 0x[0-9a-f]+, which is not a cluster of this file/,
  },
  {
    name: 'an L2 entry refers to a refcount block',
    damage: (file, { l2, refcountBlock }) => put64(file, l2, COPIED | BigInt(refcountBlock)),
    atOpen: /something else refers to the refcount structures|has refcount 1 and 2 references/,
    step: writeAt(0),
    later: /guest data would go to 0x2000, where the refcount block is/,
  },
  {
    name: 'an L2 entry refers to the L1 table, and is discarded',
    damage: (file, { l2, l1 }) => put64(file, l2, COPIED | BigInt(l1)),
    atOpen: /something else refers to the clusters of the active L1 table/,
    step: flushed(discardAt(0)),
    later: /L2 entry 0 at offset 0x[0-9a-f]+ is 0x[0-9a-f]+, which is not a cluster of this file/,
  },
  {
    name: 'an L2 entry refers to its own table, and a part of its cluster is zeroed',
    damage: (file, { l2 }) => put64(file, l2, COPIED | BigInt(l2)),
    atOpen: /has refcount 1 and 2 references/,
    step: (image) => image.writeZeroes(guestOffset(512), 512),
    later: /L2 entry 0 at offset 0x[0-9a-f]+ is 0x[0-9a-f]+, which is not a cluster of this file/,
  },
  {
    name: 'a shared L2 entry refers to a refcount block, and is replaced',
    damage: (file, { l2, refcountBlock }) => put64(file, l2, BigInt(refcountBlock)),
    atOpen: /something else refers to the refcount structures|has refcount 1 and 2 references/,
    step: flushed(writeAt(0)),
    later: /guest data would go to 0x2000, where the refcount block is/,
  },
  {
    name: 'a compressed cluster lies in the L1 table, and is discarded',
    damage: (file, { l2, l1 }) => put64(file, l2, COMPRESSED | BigInt(l1)),
    atOpen: /something else refers to the clusters of the active L1 table/,
    step: flushed(discardAt(0)),
    later: /guest data would go to 0x3000, where the active L1 table is/,
  },
  {
    name: 'two L2 entries refer to one data cluster',
    damage: (file, { l2, data }) => put64(file, l2 + 8 * 2, COPIED | BigInt(data)),
    atOpen: /has refcount 1 and 2 references/,
  },
  {
    name: 'an L2 entry is not aligned, and is read',
    damage: (file, { l2, data }) => put64(file, l2, COPIED | BigInt(data + 512)),
    atOpen: /refers to 0x[0-9a-f]+200, which is not a cluster of this file/,
    step: readAt(0),
    later: /L2 entry 0 at offset .* which is not a cluster of this file/,
  },
  {
    name: 'an L2 entry is not aligned, and is written',
    damage: (file, { l2, data }) => put64(file, l2, COPIED | BigInt(data + 512)),
    atOpen: /which is not a cluster of this file/,
    step: writeAt(0),
    later: /L2 entry 0 at offset .* which is not a cluster of this file/,
  },
  {
    name: 'an L2 entry is not aligned, and is discarded',
    damage: (file, { l2, data }) => put64(file, l2, COPIED | BigInt(data + 512)),
    atOpen: /which is not a cluster of this file/,
    step: discardAt(0),
    later: /L2 entry 0 at offset .* which is not a cluster of this file/,
  },
  {
    name: 'an L2 entry lies behind the end of the file',
    damage: (file, { l2 }) => put64(file, l2, COPIED | BigInt(2 ** 45)),
    atOpen: /refers to 0x200000000000, which is not a cluster/,
    step: writeAt(0),
    later: /which is not a cluster of this file/,
  },
  {
    name: 'an L2 entry has reserved bits',
    damage: (file, { l2, data }) => put64(file, l2, COPIED | BigInt(data) | 4n),
    atOpen: /the L2 entry at offset 0x[0-9a-f]+ has reserved bits set/,
  },
  {
    name: 'a zero entry keeps a place that is not aligned',
    damage: (file, { l2 }) => put64(file, l2, 512n | 1n),
    atOpen: /the zero entry at offset 0x[0-9a-f]+ keeps 0x200, which is not a cluster/,
  },
  {
    name: 'the header counts as free',
    damage: (file) => putCounter16(file, 0, 0),
    atOpen: /cluster 0 at 0x0 has refcount 0 and 1 references/,
  },
  {
    name: 'the L1 table counts as free',
    damage: (file, { l1 }) => putCounter16(file, l1 / CLUSTER, 0),
    atOpen: /cluster 3 at 0x3000 has refcount 0 and 1 references/,
  },
  {
    name: 'a data cluster counts as free, and is given up',
    damage: (file, { data }) => putCounter16(file, data / CLUSTER, 0),
    atOpen: /has refcount 0 and 1 references/,
    step: flushed(discardAt(0)),
    later: /is freed once more than it was used/,
  },
  {
    name: 'the refcount table is empty',
    damage: (file, { refcountTable }) => put64(file, refcountTable, 0),
    atOpen: /has refcount 0 and 1 references/,
    step: flushed(discardAt(0)),
    later: /is freed once more than it was used|nothing counts the cluster/,
  },
  {
    name: 'the refcount block is empty',
    damage: (file, { refcountBlock }) => file.punchHole(hostOffset(refcountBlock), CLUSTER),
    atOpen: /cluster 0 at 0x0 has refcount 0 and 1 references/,
    step: flushed(discardAt(0)),
    later: /is freed once more than it was used/,
  },
  {
    name: 'a refcount table entry is not aligned',
    damage: (file, { refcountTable, refcountBlock }) => put64(file, refcountTable, refcountBlock + 512),
    atOpen: /refcount table entry 0 at offset 0x1000 refers to 0x2200, which is not a cluster/,
    step: writeAt(1),
    later: /refcount table entry 0 is 0x2200, which is no cluster/,
  },
  {
    name: 'a refcount table entry refers to a data cluster',
    damage: (file, { refcountTable, data }) => put64(file, refcountTable, data),
    atOpen: /something else refers to the refcount structures|references/,
    step: writeAt(1),
    later: /a refcount block is looked for at 0x[0-9a-f]+, where none is/,
  },
  {
    name: 'a refcount table entry refers to an L2 table',
    damage: (file, { refcountTable, l2 }) => put64(file, refcountTable, l2),
    atOpen: /something else refers to the refcount structures|references/,
    step: writeAt(1),
    later: /a refcount block is looked for at 0x[0-9a-f]+, where the active L2 table is/,
  },
  {
    name: 'a refcount table entry lies behind the end of the file',
    damage: (file, { refcountTable }) => put64(file, refcountTable, 2 ** 40),
    atOpen: /refcount table entry 0 at offset 0x1000 refers to 0x10000000000/,
    step: writeAt(1),
    later: /a refcount block is looked for at 0x10000000000, where none is/,
  },
  {
    name: 'two refcount table entries refer to one block',
    damage: (file, { refcountTable, refcountBlock }) => put64(file, refcountTable + 8, refcountBlock),
    atOpen: /something else refers to the refcount structures|references/,
  },
  {
    name: 'there is no refcount table',
    damage: (file) => put32(file, 56, 0),
    atOpen: /refcount_table_clusters is 0/,
  },
];

/** Data in every second cluster, in both L2 tables. */
function makeImage(): MemoryHostFile {
  const file = createMemoryImage(qcow2, CLUSTERS * CLUSTER, { cluster_size: String(CLUSTER) });
  const image = openImage(qcow2, file);
  for (let cluster = 0; cluster < CLUSTERS; cluster += cluster < 20 || cluster >= 512 ? 2 : 492) {
    image.write(new Uint8Array(CLUSTER).fill(1 + (cluster % 200)), 0, CLUSTER, guestOffset(cluster * CLUSTER));
  }
  image.close();
  return file;
}

function readCluster(image: WritableImage, cluster: number): number {
  const bytes = Buffer.alloc(CLUSTER);
  image.read(bytes, 0, CLUSTER, guestOffset(cluster * CLUSTER));
  expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
  return bytes[0]!;
}

describe('an image that is damaged when it is opened', () => {
  test.each(SCENARIOS.filter(({ atOpen }) => atOpen !== null))('is refused for writing: $name', (scenario) => {
    const file = makeImage();
    scenario.damage(file, placesOf(file));
    const before = file.bytes();
    expect(() => openImage(qcow2, file)).toThrow(scenario.atOpen!);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
    const image = openImage(qcow2, file.clone(true), { readOnly: true });
    expect(readCluster(image, ELSEWHERE)).toBe(1 + (ELSEWHERE % 200));
  });

  test.each(
    SCENARIOS.filter(({ atOpen }) => atOpen === null),
  )('is opened, because nothing is lost: $name', (scenario) => {
    const file = makeImage();
    scenario.damage(file, placesOf(file));
    const image = openImage(qcow2, file);
    expect(readCluster(image, 0)).toBe(0);
    writeAt(0)(image);
    image.close();
    expect(readCluster(openImage(qcow2, file), ELSEWHERE)).toBe(1 + (ELSEWHERE % 200));
  });
});

describe('an image that is damaged while it is open', () => {
  test.each(
    SCENARIOS.filter(({ step }) => step !== undefined),
  )('is marked corrupt and takes no further change: $name', ({ damage, step, later }) => {
    const file = makeImage();
    const log: string[] = [];
    const image = openImage(qcow2, file, { log: (sentence) => log.push(sentence) });
    damage(file, placesOf(file));
    const harmed = file.clone();
    expectDamage(() => step!(image), later!);
    expect(get64(file, 72)).toBe(2n);
    expect(image.failure()).toMatch(later!);
    expect(log.join('\n')).toContain('is read-only from now on');
    expect(image.details().specific['corrupt']).toBe(true);
    expect(() => writeAt(ELSEWHERE)(image)).toThrow(/was turned read-only/);
    expect(readCluster(image, ELSEWHERE)).toBe(1 + (ELSEWHERE % 200));
    expect(() => openImage(qcow2, file)).toThrow(/the corrupt bit is set, so the image is not opened for writing/);
    const after = openImage(qcow2, file.clone(true), { readOnly: true });
    const was = openImage(qcow2, harmed.clone(true), { readOnly: true });
    for (let cluster = 512; cluster < CLUSTERS; cluster++)
      expect(readCluster(after, cluster)).toBe(readCluster(was, cluster));
  });

  test('a version 2 image has no bit for it, and is read-only all the same', () => {
    const file = createMemoryImage(qcow2, 1024 * 1024, { cluster_size: '4096', compat: '0.10' });
    let image = openImage(qcow2, file);
    writeAt(0)(image);
    image.close();
    image = openImage(qcow2, file);
    const { l2, refcountBlock } = placesOf(file);
    const header = Buffer.from(file.bytes().subarray(0, CLUSTER));
    put64(file, l2, COPIED | BigInt(refcountBlock));
    expectDamage(() => writeAt(0)(image), /guest data would go to 0x2000, where the refcount block is/);
    expect(() => writeAt(8)(image)).toThrow(/was turned read-only/);
    expect(Buffer.compare(file.bytes().subarray(0, CLUSTER), header)).toBe(0);
  });

  test('a read-only image is never marked', () => {
    const file = makeImage();
    const { l2 } = placesOf(file);
    put64(file, l2, COPIED | BigInt(2 ** 45));
    const before = file.bytes();
    const image = openImage(qcow2, file.clone(true), { readOnly: true });
    expect(() => readAt(0)(image)).toThrow(/which is not a cluster of this file/);
    expect(image.failure()).toBeNull();
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });

  test('a cluster that is free by its counter and holds a new L2 table is not handed out', () => {
    const file = makeImage();
    const image = openImage(qcow2, file);
    // what is freed and what is taken for tables goes through the set of metadata clusters, so reuse never hits it
    for (let round = 0; round < 6; round++) {
      for (let cluster = 0; cluster < CLUSTERS; cluster += 7) (round % 2 === 0 ? writeAt : discardAt)(cluster)(image);
      image.flush();
      image.flush();
    }
    expect(image.failure()).toBeNull();
    image.close();
    expect(qcow2.check(file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
  });
});

function expectDamage(action: () => void, words: RegExp): void {
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeDefined();
  expect((caught as Error).message).toMatch(words);
  expect(errnoOf(caught)).toBe(ERRNO.EIO);
}
