// Places where guest and host offsets, or offsets and cluster numbers, meet: a swapped argument does not compile. The type check
// of the tests is what proves it, for a directive that expects an error where there is none is an error itself.

import { expect, test } from 'vitest';
import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../../src/bytes/offsets.ts';
import type { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import type { ReadableImage } from '../../../src/format/image-format.ts';
import type { PendingLink, PendingLinks } from '../../../src/format/mapped/pending-links.ts';
import type { DataRun } from '../../../src/format/mapped/runs/run-mapper.ts';
import type { Allocation, Allocator } from '../../../src/format/mapped/space/cluster-allocator.ts';
import type { Geometry } from '../../../src/format/qed/geometry.ts';
import type { Linker } from '../../../src/format/qed/link.ts';
import type { Mapper, Run } from '../../../src/format/qed/mapping.ts';
import type { HostFile } from '../../../src/host/host-file.ts';

interface Parts {
  readonly guest: GuestOffset;
  readonly host: HostOffset;
  readonly cluster: GuestCluster;
  readonly file: HostFile;
  readonly image: ReadableImage;
  readonly disk: VirtualDisk;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly pending: PendingLinks;
  readonly allocator: Allocator;
  readonly geometry: Geometry;
}

/** Compiled and never run. Each line without a directive compiles, and its neighbour with the other offset does not. */
function swaps(parts: Parts, bytes: Uint8Array): void {
  const { allocator, cluster, disk, file, geometry, guest, host, image, linker, mapper, pending } = parts;

  const run: Run = mapper.map(guest, 1);
  // @ts-expect-error the mapper is asked about the guest's bytes
  mapper.map(host, 1);
  // @ts-expect-error only a run of data has a host offset
  file.read(bytes, 0, 1, run.hostOffset);
  if (run.status === 'data') {
    file.read(bytes, 0, 1, run.hostOffset);
    // @ts-expect-error a run lies in the file
    image.read(bytes, 0, 1, run.hostOffset);
  }
  // @ts-expect-error a run lies in the file
  const swapped: DataRun = { status: 'data', length: 1, hostOffset: guest };

  pending.add(cluster, host, 0);
  // @ts-expect-error a link leads from a cluster of the disk to a place in the file
  pending.add(host, cluster, 0);
  // @ts-expect-error the number of a cluster is not its offset
  pending.find(guest);
  const link: PendingLink = { guestCluster: cluster, hostOffset: host, allocated: 0, zero: 0 };
  // @ts-expect-error a link leads to a place in the file
  const toGuest: PendingLink = { guestCluster: cluster, hostOffset: guest, allocated: 0, zero: 0 };

  const { offset }: Allocation = allocator.allocate(1);
  linker.link(cluster, offset, 1);
  // @ts-expect-error new clusters lie in the file
  image.read(bytes, 0, 1, offset);
  // @ts-expect-error what is linked is a place in the file
  linker.link(cluster, guest, 1);
  allocator.release(after(offset, 1), 1);
  // @ts-expect-error what is freed is a place in the file
  allocator.release(geometry.startOf(cluster), 1);

  disk.read(bytes, 0, 1, guest);
  // @ts-expect-error a disk is read at the guest's offsets
  disk.read(bytes, 0, 1, host);
  // @ts-expect-error a number must be said to be an offset of the guest's
  disk.write(bytes, 0, 1, 4096);
  return void [swapped, link, toGuest];
}

test('swapped offsets do not compile', () => {
  expect(swaps).toBeTypeOf('function');
});
