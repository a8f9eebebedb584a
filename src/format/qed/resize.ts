// Changing the virtual size. A grown part reads as zeros, whatever the last cluster or the backing file hold there; a
// smaller size is durable before anything behind it is given up, so a crash leaves leaks and never a cut-off cluster.

import { type GuestCluster, guestCluster, MAX_VIRTUAL_SIZE, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ReadableImage } from '../image-format.ts';
import { growOverBacking } from '../mapped/backing.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Deallocator } from './deallocate.ts';
import type { DirtyBit } from './dirty-bit.ts';
import type { Flush } from './flush.ts';
import { type Geometry, maxImageSize } from './geometry.ts';
import { IMAGE_SIZE_OFFSET } from './header.ts';
import type { QedNumbers } from './state.ts';

export interface ResizeParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly deallocator: Deallocator;
  readonly dirtyBit: DirtyBit;
  readonly tracker: WriteTracker;
  readonly flush: Flush;
  readonly disk: Pick<DiskNumbers, 'seeing' | 'setVirtualSize' | 'virtualSizeOutsideLock'>;
  readonly numbers: Pick<QedNumbers, 'noteZeroEntries'>;
}

/** Sets the virtual size to `size` bytes, rounded up to 512. Throws limit when the tables cannot map it. */
export function resize(parts: ResizeParts, size: number): void {
  const padded = roundUp(size, SECTOR_BYTES);
  checkLimit(parts, padded);
  const old = parts.disk.virtualSizeOutsideLock();
  if (padded > old) grow(parts, old, padded);
  else if (padded < old) shrink(parts, old, padded);
}

function checkLimit({ file: { path }, geometry }: ResizeParts, size: number): void {
  const limit = maxImageSize(geometry.clusterSize, geometry.tableSizeClusters);
  if (size <= limit) return;
  const cure = limit < MAX_VIRTUAL_SIZE ? '; create one with larger clusters or tables and convert' : '';
  throw new ImgfuseError(
    'limit',
    `${path} cannot have ${size} bytes: clusters of ${geometry.clusterSize} bytes with tables of ` +
      `${geometry.tableSizeClusters} clusters reach ${limit} bytes${cure}`,
    { path },
  );
}

function grow(parts: ResizeParts, old: number, size: number): void {
  const { deallocator, flush, geometry } = parts;
  deallocator.zeroBehindEnd(old);
  // a shrink that was cut short, by a crash or a full host, has left clusters behind the end
  deallocator.cutOff(...clustersBetween(old, size, geometry));
  growOverBacking(parts, geometry.clusterSize, old, size, () => setSize(parts, size));
  flush.run();
}

function shrink(parts: ResizeParts, old: number, size: number): void {
  setSize(parts, size);
  parts.flush.run();
  parts.deallocator.zeroBehindEnd(size);
  parts.deallocator.cutOff(...clustersBetween(size, old, parts.geometry));
  parts.tracker.noteWrite();
  parts.flush.run();
}

/** Whole clusters [first, end) behind a smaller size, up to the last one of a larger. */
function clustersBetween(smaller: number, larger: number, geometry: Geometry): [GuestCluster, GuestCluster] {
  return [guestCluster(geometry.clustersFor(smaller)), guestCluster(geometry.clustersFor(larger))];
}

function setSize({ dirtyBit, disk, lock, numbers, reservations, tracker }: ResizeParts, size: number): void {
  // before all clusters are reserved, because it may wait for the disk
  lock.run(() => dirtyBit.set());
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    dirtyBit.set();
    dirtyBit.writeField(IMAGE_SIZE_OFFSET, size);
    disk.setVirtualSize(size);
    numbers.noteZeroEntries();
  });
  tracker.noteWrite();
}
