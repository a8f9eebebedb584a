// Repair of an image that was cut, and in which two entries lead to one cluster. What is missing is told or reads as zeros; no place
// behind the end, where an entry may lead that has lost its cluster, gets a footer, or the copy of another cluster. So each sector is
// what it was, or zeros, or an error, and a second repair does not change that.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import type { WritableFormat } from '../../../src/format/image-format.ts';
import { qcow } from '../../../src/format/qcow/index.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { vdi } from '../../../src/format/vdi/index.ts';
import { vhdx } from '../../../src/format/vhdx/index.ts';
import { vmdk } from '../../../src/format/vmdk/index.ts';
import { vpc } from '../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../support/memory-images.ts';
import { plainParallels } from '../../support/plain-parallels.ts';

const SECTOR = 512;
const CLUSTERS = 6;

interface Subject {
  readonly format: WritableFormat;
  readonly options?: Readonly<Record<string, string>>;
  readonly clusterBytes: number;
  /** places of the entry of a cluster, in every copy of its table, and bytes of an entry */
  readonly entriesOf: (bytes: Buffer, cluster: number) => readonly number[];
  readonly entryBytes: number;
}

/** The entry in the only L2 table; @param read a pointer, without its flags */
function behindL1(read: (bytes: Buffer, at: number) => bigint): Subject['entriesOf'] {
  const pointerAt = (bytes: Buffer, at: number): number => Number(read(bytes, at));
  return (bytes, cluster) => [pointerAt(bytes, pointerAt(bytes, 40)) + cluster * 8];
}

const SUBJECTS: readonly Subject[] = [
  {
    format: qed,
    options: { cluster_size: '4k' },
    clusterBytes: 4096,
    entriesOf: behindL1((bytes, at) => bytes.readBigUInt64LE(at)),
    entryBytes: 8,
  },
  {
    format: qcow,
    clusterBytes: 4096,
    entriesOf: behindL1((bytes, at) => bytes.readBigUInt64BE(at)),
    entryBytes: 8,
  },
  {
    format: qcow2,
    options: { cluster_size: '4k' },
    clusterBytes: 4096,
    entriesOf: behindL1((bytes, at) => bytes.readBigUInt64BE(at) & 0xffff_ffff_ff00n),
    entryBytes: 8,
  },
  {
    format: vdi,
    options: { block_size: '1M' },
    clusterBytes: 2 ** 20,
    entriesOf: (bytes, cluster) => [bytes.readUInt32LE(0x154) + cluster * 4],
    entryBytes: 4,
  },
  {
    format: vpc,
    options: { block_size: '256k' },
    clusterBytes: 2 ** 18,
    entriesOf: (bytes, cluster) => [Number(bytes.readBigUInt64BE(512 + 16)) + cluster * 4],
    entryBytes: 4,
  },
  {
    format: vhdx,
    options: { block_size: '1M' },
    clusterBytes: 2 ** 20,
    entriesOf: (_, cluster) => [2 * 2 ** 20 + cluster * 8],
    entryBytes: 8,
  },
  {
    format: vmdk,
    clusterBytes: 65_536,
    entriesOf: (bytes, cluster) =>
      [48, 56].map((at) => {
        const directory = Number(bytes.readBigUInt64LE(at)) * SECTOR;
        return bytes.readUInt32LE(directory) * SECTOR + cluster * 4;
      }),
    entryBytes: 4,
  },
  {
    format: plainParallels,
    options: { cluster_size: '64k' },
    clusterBytes: 65_536,
    entriesOf: (_, cluster) => [64 + cluster * 4],
    entryBytes: 4,
  },
];

/** Six clusters, each full of bytes of its own, which follow each other in the file. */
function made({ clusterBytes, format, options }: Subject): MemoryHostFile {
  const file = createMemoryImage(format, 8 * clusterBytes, options);
  const image = openImage(format, file);
  for (let cluster = 0; cluster < CLUSTERS; cluster++) {
    image.write(new Uint8Array(clusterBytes).fill(65 + cluster), 0, clusterBytes, guestOffset(cluster * clusterBytes));
  }
  image.close();
  return file;
}

function share({ entriesOf, entryBytes }: Subject, bytes: Buffer, cluster: number, of: number): void {
  for (const [i, at] of entriesOf(bytes, cluster).entries()) {
    const from = entriesOf(bytes, of)[i]!;
    bytes.copy(bytes, at, from, from + entryBytes);
  }
}

/** The byte that a sector of the disk is full of; null: it cannot be read. */
type Sectors = readonly (number | null)[];

function sectorsOf({ clusterBytes, format }: Subject, file: MemoryHostFile): Sectors {
  const image = openImage(format, file.clone(true), { readOnly: true });
  const found: (number | null)[] = [];
  const sector = Buffer.alloc(SECTOR);
  for (let at = 0; at < CLUSTERS * clusterBytes; at += SECTOR) {
    try {
      image.read(sector, 0, SECTOR, guestOffset(at));
      found.push(sector.equals(Buffer.alloc(SECTOR, sector[0])) ? sector[0]! : Number.NaN);
    } catch (error) {
      if (!(error instanceof ImgfuseError)) throw error;
      found.push(null);
    }
  }
  return found;
}

/** @returns what it has left as it was */
function repair({ format }: Subject, file: MemoryHostFile): number {
  const { corruptions, corruptionsFixed } = checkImage(format, file, { repair: 'all', log: () => undefined });
  return corruptions - corruptionsFixed;
}

describe.each(SUBJECTS)('$format.name', (subject) => {
  const { clusterBytes } = subject;

  // in clusters and sectors from the end of the file
  const cuts = [0, 1, 1.5, 2.25].flatMap((clusters) => [1, 2].map((sectors) => [clusters, sectors] as const));

  test.each(cuts)('cut %f clusters and %i sectors before its end', (clusters, sectors) => {
    for (const shared of [
      [],
      [[1, 0]],
      [
        [4, 0],
        [1, 3],
      ],
    ] as const) {
      const whole = Buffer.from(made(subject).bytes());
      const wanted = Array.from({ length: CLUSTERS }, (_, cluster) => 65 + cluster);
      for (const [cluster, of] of shared) {
        share(subject, whole, cluster, of);
        wanted[cluster] = wanted[of]!;
      }
      const cut = whole.subarray(0, whole.length - Math.floor(clusters * clusterBytes) - sectors * SECTOR);
      const file = new MemoryHostFile(Buffer.from(cut));
      const before = sectorsOf(subject, file);
      let left: number | null = null;
      for (let pass = 0; pass < 2; pass++) {
        const leaves = repair(subject, file);
        expect(leaves).toBe(left ?? leaves);
        left = leaves;
        const after = sectorsOf(subject, file);
        const wrong = after.flatMap((byte, i) => {
          const cluster = Math.floor((i * SECTOR) / clusterBytes);
          const allowed: (number | null)[] = before[i] === wanted[cluster] ? [wanted[cluster]!] : [0, null];
          // what is left of the cluster that the file ends in may be given up with it
          const sectorsOfCluster = after.slice(
            (cluster * clusterBytes) / SECTOR,
            ((cluster + 1) * clusterBytes) / SECTOR,
          );
          if (!sectorsOfCluster.includes(wanted[cluster]!)) allowed.push(0);
          return allowed.includes(byte) ? [] : [`sector ${i} of cluster ${cluster} in pass ${pass}: ${byte}`];
        });
        expect(wrong.slice(0, 10)).toEqual([]);
      }
    }
  });
});
