// How often a request takes the metadata lock: every other one waits for it. A run is mapped in one hold, and neither the size
// of the disk nor the release of the reservation needs another.

import { afterEach, describe, expect, test, vi } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { listenToFailpoints } from '../../../../src/concurrency/failpoints.ts';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import { VirtualDisk } from '../../../../src/disk/virtual-disk.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { plainParallels } from '../../../support/plain-parallels.ts';

const CLUSTER = 65536;
/** VHDX has no smaller blocks. */
const LARGE_CLUSTER = 1024 * 1024;

afterEach(() => {
  listenToFailpoints(null);
  vi.restoreAllMocks();
});

describe.each([
  { format: qed, options: {} },
  { format: qcow2, options: {} },
  { format: vdi, options: { block_size: '64k' } },
  { format: vpc, options: { block_size: '64k' } },
  { format: vmdk, options: {} },
  { format: plainParallels, options: { cluster_size: '64k' } },
  { format: vhdx, options: { block_size: '1M' } },
])('a disk in $format.name', ({ format, options }) => {
  // the bitmap of a VHD block comes before its data, so no two blocks adjoin
  const more = format === vpc ? 1 : 0;
  const cluster = format === vhdx ? LARGE_CLUSTER : CLUSTER;
  const open = () => {
    const disk = new VirtualDisk(openImage(format, createMemoryImage(format, 2 ** 30, options), { slots: 2 }));
    disk.write(new Uint8Array(2 * cluster).fill(7), 0, 2 * cluster, guestOffset(cluster));
    disk.write(new Uint8Array(cluster).fill(7), 0, cluster, guestOffset(0));
    disk.flush();
    return { disk, locks: vi.spyOn(Mutex.prototype, 'lock') };
  };

  test.each([
    ['a page', 4096, 1],
    ['two clusters in one piece', 2 * cluster, 1 + more],
    ['a piece of nothing', 8 * cluster, 2 + more],
  ])('reads %s with one hold of the lock for each run', (_, length, holds) => {
    const { disk, locks } = open();
    const target = new Uint8Array(length);
    disk.read(target, 0, length, guestOffset(cluster));
    // a run of a VHDX ends with its block, which is no smaller than a request
    expect(locks).toHaveBeenCalledTimes(format === vhdx ? Math.ceil(length / cluster) : holds);
    expect([target[0], target[2 * cluster - 1] ?? 7, target[2 * cluster] ?? 0]).toEqual([7, 7, 0]);
    disk.close();
  });

  test('writes a page in place with one hold of the lock', () => {
    const { disk, locks } = open();
    disk.write(new Uint8Array(4096), 0, 4096, guestOffset(cluster));
    expect(locks).toHaveBeenCalledTimes(1);
    disk.close();
  });

  test('lets go of its reservation when a read fails', () => {
    const { disk } = open();
    listenToFailpoints((name) => {
      if (name === 'data-read') throw new Error('no');
    });
    const target = new Uint8Array(4096);
    expect(() => disk.read(target, 0, 4096, guestOffset(0))).toThrow('no');
    listenToFailpoints(null);
    // the slot is free, and the lock is, too
    disk.read(target, 0, 4096, guestOffset(0));
    expect(target[0]).toBe(7);
    disk.close();
  });
});
