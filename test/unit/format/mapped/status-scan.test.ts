// A scan over the tables says of every range what the mapper says of each of its clusters, for images with everything in them:
// data in any order, zeros, nothing, subclusters, links that wait, and data in holes of the file.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import type { Extent, StatusRun, WritableFormat, WritableImage } from '../../../../src/format/image-format.ts';
import { HostHoles } from '../../../../src/format/mapped/host-holes.ts';
import { createPendingLinksState, PendingLinks } from '../../../../src/format/mapped/pending-links.ts';
import { type ScannedTables, StatusScan } from '../../../../src/format/mapped/status-scan.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { plainParallels } from '../../../support/plain-parallels.ts';
import { placesOf } from '../../../support/qcow2-bytes.ts';

const SIZE = 4 * 1024 * 1024;

interface Variant {
  readonly format: WritableFormat;
  readonly cluster: number;
  readonly options: Readonly<Record<string, string>>;
}

const VARIANTS: Readonly<Record<string, Variant>> = {
  QED: { format: qed, cluster: 4096, options: { cluster_size: '4096', table_size: '1' } },
  qcow2: { format: qcow2, cluster: 4096, options: { cluster_size: '4096' } },
  VDI: { format: vdi, cluster: 4096, options: { block_size: '4k' } },
  VHD: { format: vpc, cluster: 4096, options: { block_size: '4k' } },
  VMDK: { format: vmdk, cluster: 4096, options: { grain_size: '4k' } },
  VHDX: { format: vhdx, cluster: 1024 * 1024, options: { block_size: '1M' } },
  Parallels: { format: plainParallels, cluster: 4096, options: { cluster_size: '4k' } },
  'qcow2 with subclusters': { format: qcow2, cluster: 16_384, options: { cluster_size: '16384', extended_l2: 'on' } },
  'qcow2, preallocated': { format: qcow2, cluster: 65_536, options: { preallocation: 'metadata' } },
};

type Step = readonly ['write' | 'discard' | 'flush', number, number];

const STEPS: fc.Arbitrary<Step[]> = fc.array(
  fc.tuple(
    fc.constantFrom('write', 'write', 'discard', 'flush'),
    fc.nat(SIZE / 512 - 1),
    fc.integer({ min: 1, max: 300 }),
  ),
  { maxLength: 40 },
) as fc.Arbitrary<Step[]>;

function carryOut(image: WritableImage, steps: readonly Step[]): void {
  for (const [step, sector, sectors] of steps) {
    const at = guestOffset(sector * 512);
    const length = Math.min(sectors * 512, SIZE - at);
    if (step === 'write') image.write(new Uint8Array(length).fill(7), 0, length, at);
    else if (step === 'discard') image.discard(at, length);
    else image.flush();
  }
}

/** What one sector is, asked alone, so that no run is put together. */
function sectorOf(image: WritableImage, sector: number, mode: 'map' | 'mapStatus' | 'mapContent'): string {
  const extent: StatusRun & Partial<Extent> = image[mode](guestOffset(sector * 512), 512);
  const { status, hostOffset: host, isHole } = extent;
  return host === undefined ? status : `${status} ${host - sector * 512} ${isHole === true}`;
}

describe.each(Object.entries(VARIANTS))('%s', (_, { format, options }) => {
  test.each(['map', 'mapStatus', 'mapContent'] as const)('%s joins what is the same, and nothing else', (mode) => {
    fc.assert(
      fc.property(STEPS, fc.nat(SIZE / 512 - 1), (steps, start) => {
        const image = openImage(format, createMemoryImage(format, SIZE, options));
        carryOut(image, steps);
        for (let sector = start; sector < SIZE / 512; ) {
          const run = image[mode](guestOffset(sector * 512), SIZE - sector * 512);
          expect(run.length).toBeGreaterThan(0);
          const wanted = sectorOf(image, sector, mode);
          expect(wanted.split(' ')[0]).toBe(run.status);
          const end = sector + Math.ceil(run.length / 512);
          for (let at = sector; at < end; at++) {
            const alone = sectorOf(image, at, mode);
            // an expectation for each of a million sectors takes longer than the scan
            if (alone !== wanted) expect([at, alone]).toEqual([at, wanted]);
          }
          sector = end;
        }
        image.close();
      }),
      { numRuns: 15 },
    );
  });

  test('what mapContent calls zero reads as zeros, and what is written is data', () => {
    fc.assert(
      fc.property(STEPS, (steps) => {
        const image = openImage(format, createMemoryImage(format, SIZE, options));
        carryOut(image, steps);
        const bytes = new Uint8Array(SIZE);
        image.read(bytes, 0, SIZE, guestOffset(0));
        for (let at = 0; at < SIZE; ) {
          const { status, length } = image.mapContent(guestOffset(at), SIZE - at);
          if (status !== 'data') expect(bytes.subarray(at, at + length).every((byte) => byte === 0)).toBe(true);
          at += length;
        }
        image.close();
      }),
      { numRuns: 15 },
    );
  });
});

test('clusters that were preallocated and not written are data of the image and zeros to a reader', () => {
  const image = openImage(qcow2, createMemoryImage(qcow2, SIZE, { preallocation: 'metadata' }));
  expect(image.mapStatus(guestOffset(0), SIZE)).toEqual({ status: 'data', length: SIZE });
  expect(image.mapContent(guestOffset(0), SIZE)).toEqual({ status: 'zero', length: SIZE });
  image.write(new Uint8Array(4096).fill(1), 0, 4096, guestOffset(1024 * 1024));
  expect(image.mapContent(guestOffset(0), SIZE)).toEqual({ status: 'zero', length: 1024 * 1024 });
  expect(image.mapContent(guestOffset(1024 * 1024), SIZE)).toEqual({ status: 'data', length: 4096 });
  image.close();
});

test('encrypted data in a hole of the file is data: a hole does not decrypt to zeros', () => {
  const password = 'secret';
  const options = { 'encrypt.format': 'luks', 'encrypt.iter-time': '10' };
  const file = createMemoryImage(qcow2, SIZE, options, undefined, { password });
  const image = openImage(qcow2, file, { password });
  image.write(new Uint8Array(65_536).fill(1), 0, 65_536, guestOffset(0));
  image.flush();
  file.punchHole(hostOffset(placesOf(file).data), 65_536);
  expect(image.mapContent(guestOffset(0), 65_536)).toEqual({ status: 'data', length: 65_536 });
  expect(image.map(guestOffset(0), 65_536)).toEqual({ start: 0, status: 'data', length: 65_536 });
});

describe('a hole of the host file', () => {
  class AskedFile extends MemoryHostFile {
    asked = 0;
    override seekData(offset: Parameters<MemoryHostFile['seekData']>[0]): number {
      this.asked++;
      return super.seekData(offset);
    }
  }

  function fileOf(pages: string): AskedFile {
    const file = new AskedFile();
    file.truncate(pages.length * 4096);
    [...pages].forEach((page, index) => {
      if (page === 'x') file.write(new Uint8Array(4096).fill(1), 0, 4096, hostOffset(index * 4096));
    });
    return file;
  }

  test('is not asked for again, and neither is the data beside it', () => {
    const file = fileOf('xxxx....xxxx');
    const holes = new HostHoles(file);
    holes.restart();
    for (let turn = 0; turn < 10; turn++) {
      expect([holes.look(4096, 4096), holes.isHole]).toEqual([4096, false]);
      expect([holes.look(3 * 4096, 8192), holes.isHole]).toEqual([4096, false]);
      expect([holes.look(5 * 4096, 16 * 4096), holes.isHole]).toEqual([3 * 4096, true]);
    }
    expect(file.asked).toBeLessThan(5);
  });

  test('is forgotten with the lock', () => {
    const file = fileOf('....');
    const holes = new HostHoles(file);
    holes.restart();
    expect([holes.look(0, 4096), holes.isHole]).toEqual([4096, true]);
    file.write(new Uint8Array(1).fill(1), 0, 1, hostOffset(0));
    holes.restart();
    expect([holes.look(0, 4096), holes.isHole]).toEqual([4096, false]);
  });

  test('is what lies behind the end of the file, too', () => {
    const holes = new HostHoles(fileOf('x'));
    holes.restart();
    expect([holes.look(4096, 4096), holes.isHole]).toEqual([4096, true]);
    expect([holes.look(1024 * 1024, 4096), holes.isHole]).toEqual([4096, true]);
  });

  test('is not asked for without end in one hold of the lock', () => {
    const file = fileOf('x.'.repeat(1000));
    const holes = new HostHoles(file);
    holes.restart();
    let answers = 0;
    while (holes.look(answers * 4096, 4096) > 0) answers++;
    expect(answers).toBeGreaterThan(10);
    expect(file.asked).toBeLessThan(200);
  });

  test('is asked for a few times where clusters lie backwards in the file', () => {
    const file = fileOf('x'.repeat(4000));
    const holes = new HostHoles(file);
    holes.restart();
    for (let page = 3999; page >= 0; page--)
      expect([holes.look(page * 4096, 4096), holes.isHole]).toEqual([4096, false]);
    expect(file.asked).toBeLessThan(20);
  });
});

describe('the status of a range with something wrong in its third cluster', () => {
  const CLUSTER = 4096;

  /** Zeros everywhere, cluster by cluster; from byte 8192 on `error` is thrown. */
  function scanThrowing(error: unknown): StatusScan {
    const tables = {
      ...{
        clusterSize: CLUSTER,
        tableEntries: 1,
        entryBytes: 8,
        slices: { loads: 0, load: () => 0, bytesInSlice: () => 8 },
      },
      pending: new PendingLinks(createPendingLinksState(1)),
      mapper: { map: () => ({ status: 'zero', hostOffset: 0, length: CLUSTER }) },
      l2Table: (l1Index: number) => {
        if (l1Index >= 2) throw error;
        return CLUSTER;
      },
      kindOf: () => 'zero',
      hostOf: () => 0,
    };
    return new StatusScan(tables as unknown as ScannedTables, null, false);
  }

  test('ends before a damaged entry', () => {
    const scan = scanThrowing(new ImgfuseError('corrupt', 'an entry leads out of the file'));
    expect(scan.scan(guestOffset(0), 8 * CLUSTER, 'status')).toMatchObject({ status: 'zero', length: 2 * CLUSTER });
  });

  test.each([
    ['a table that the host cannot read', new ImgfuseError('io', 'EIO')],
    ['a failed assertion', new Error('assertion failed')],
    ['a bug', new TypeError('undefined is not a function')],
  ])('is not known with %s', (_name, error) => {
    expect(() => scanThrowing(error).scan(guestOffset(0), 8 * CLUSTER, 'status')).toThrow(error);
  });
});
