// Changing the virtual size. A grown part reads as zeros, whatever the last cluster or the backing file hold there; a
// smaller size is durable before anything beyond it is given up, so a crash leaves leaks and never a cut-off cluster. The
// L1 table grows by a copy, which is durable before the header shows it, and never shrinks.

import {
  after,
  type GuestCluster,
  guestCluster,
  guestOffset,
  type HostOffset,
  MAX_VIRTUAL_SIZE,
  roundUp,
  SECTOR_BYTES,
} from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ReadableImage } from '../image-format.ts';
import { growOverBacking } from '../mapped/backing.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { DeferredDecrements } from './counters/deferred-decrements.ts';
import type { Deallocator } from './deallocate.ts';
import type { Flush } from './flush.ts';
import { type Geometry, L1_ENTRY_BYTES } from './geometry.ts';
import { QCOW_MAX_L1_SIZE, writeSizeAndL1Fields } from './header/header.ts';
import type { HeaderBits } from './header-bits.ts';
import type { MetadataClusters } from './metadata-clusters.ts';
import type { FixedHeader, Qcow2Numbers } from './state.ts';
import type { Tables } from './table.ts';

/** An L1 table is copied in pieces of this. */
const COPY_BYTES = 1024 * 1024;

export interface ResizeParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly dataFile: HostFile | null;
  readonly header: Pick<FixedHeader, 'cryptMethod' | 'snapshotCount' | 'version'>;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly tables: Tables;
  readonly allocator: Allocator;
  readonly deallocator: Deallocator;
  readonly decrements: DeferredDecrements;
  readonly tracker: WriteTracker;
  readonly flush: Flush;
  readonly numbers: Qcow2Numbers;
  readonly disk: DiskNumbers;
  readonly headerBits: HeaderBits;
  readonly metadata: MetadataClusters;
}

/** Sets the virtual size to `size` bytes, rounded up to 512. Throws limit, or unsupported for a v2 image with snapshots. */
export function resize(parts: ResizeParts, size: number): void {
  const { disk, file, geometry } = parts;
  const { snapshotCount, version } = parts.header;
  const padded = roundUp(size, SECTOR_BYTES);
  const l1Bytes = geometry.l1EntriesFor(padded) * L1_ENTRY_BYTES;
  if (padded > MAX_VIRTUAL_SIZE || l1Bytes > QCOW_MAX_L1_SIZE) {
    throw new ImgfuseError(
      'limit',
      `${file.path} cannot have ${padded} bytes: with clusters of ${geometry.clusterSize} bytes its L1 table would have ` +
        `${l1Bytes} bytes and 32 MiB are the limit; create one with larger clusters and convert`,
      { path: file.path },
    );
  }
  if (snapshotCount > 0 && version === 2) {
    throw new ImgfuseError(
      'unsupported',
      `${file.path} has snapshots, and a version 2 image with snapshots has one size; amend it to compat=1.1`,
      {
        path: file.path,
      },
    );
  }
  const old = disk.virtualSizeOutsideLock();
  if (padded > old) grow(parts, old, padded);
  else if (padded < old) shrink(parts, old, padded);
}

function grow(parts: ResizeParts, old: number, size: number): void {
  const { dataFile, deallocator, disk, flush, geometry, lock, numbers } = parts;
  // what an interrupted shrink left beyond the end must not come back
  deallocator.cutOff(endCluster(geometry, old), geometry.firstClusterOf(lock.run(() => numbers.l1Entries)));
  growL1(parts, geometry.l1EntriesFor(size));
  if (dataFile !== null) {
    cutDataFile(dataFile, old);
    if (dataFile.size() < size) dataFile.truncate(size);
  }
  const oldEnd = Math.min(roundUp(old, geometry.clusterSize), size);
  // before anybody sees the range
  if (oldEnd > old) disk.seeing(size, () => deallocator.zero(guestOffset(old), oldEnd - old, size));
  growOverBacking(parts, geometry.clusterSize, oldEnd, size, () => setSize(parts, size));
  flush.run();
}

function shrink(parts: ResizeParts, old: number, size: number): void {
  const { geometry } = parts;
  setSize(parts, size);
  parts.flush.run();
  parts.deallocator.cutOff(endCluster(geometry, size), endCluster(geometry, old));
  if (parts.dataFile !== null) cutDataFile(parts.dataFile, size);
  parts.tracker.noteWrite();
  parts.flush.run();
}

/** The first cluster beyond the end of a disk of `size` bytes. */
function endCluster(geometry: Geometry, size: number): GuestCluster {
  return guestCluster(geometry.clustersFor(size));
}

/** Gives back what lies beyond the end of the disk; a whole sector stays, because it is encrypted as one. */
function cutDataFile(dataFile: HostFile, size: number): void {
  const end = roundUp(size, SECTOR_BYTES);
  if (dataFile.size() > end) dataFile.truncate(end);
}

/**
 * A longer L1 table: copied, durable, shown by the header; then the old one is released. Entries change in rounds of the flush only,
 * and none runs meanwhile, so the copy needs no lock; requests go on, and find the old table until the header shows the new one.
 */
function growL1(parts: ResizeParts, entries: number): void {
  const { allocator, flush, geometry, headerBits, lock, numbers, tracker } = parts;
  if (entries <= lock.run(() => numbers.l1Entries)) return;
  const clusters = geometry.clustersFor(entries * L1_ENTRY_BYTES);
  const offset = lock.run(() => {
    headerBits.beforeChange();
    return allocator.allocateExactly(clusters).offset;
  });
  try {
    flush.betweenRounds(() => {
      copyL1(parts, offset, clusters * geometry.clusterSize);
      tracker.sync();
      lock.run(() => showL1(parts, offset, entries));
    });
  } catch (error) {
    // a header that may or may not show it has turned the image read-only (R8)
    if (tracker.failure() === null) lock.run(() => allocator.giveBack(offset, clusters));
    throw error;
  }
  tracker.noteWrite();
}

/** The entries of the L1 table, then zeros, to `offset`. */
function copyL1({ file, lock, numbers, tables }: ResizeParts, offset: HostOffset, bytes: number): void {
  const old = lock.run(() => ({ offset: numbers.l1Offset, bytes: numbers.l1Entries * L1_ENTRY_BYTES }));
  for (let done = 0; done < bytes; done += COPY_BYTES) {
    const content = new Uint8Array(Math.min(COPY_BYTES, bytes - done));
    const part = Math.min(content.length, old.bytes - done);
    if (part > 0) file.read(content, 0, part, after(old.offset, done));
    lock.run(() => tables.slices.forget(after(offset, done), content.length));
    file.write(content, 0, content.length, after(offset, done));
  }
}

function showL1(parts: ResizeParts, offset: HostOffset, entries: number): void {
  const { decrements, disk, geometry, metadata, numbers, tables } = parts;
  const oldBytes = numbers.l1Entries * L1_ENTRY_BYTES;
  writeHeader(parts, disk.virtualSize, entries, offset);
  metadata.mark('active L1 table', geometry.clusterOf(offset), geometry.clustersFor(entries * L1_ENTRY_BYTES));
  if (oldBytes > 0) {
    decrements.add(geometry.clusterOf(numbers.l1Offset), geometry.clustersFor(oldBytes));
    tables.slices.forget(numbers.l1Offset, roundUp(oldBytes, geometry.clusterSize));
  }
  numbers.setL1Table(offset, entries);
}

function setSize(parts: ResizeParts, size: number): void {
  const { disk, numbers, reservations, tracker } = parts;
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    writeHeader(parts, size, numbers.l1Entries, numbers.l1Offset);
    disk.setVirtualSize(size);
  });
  tracker.noteWrite();
}

function writeHeader(
  { file, header, tracker }: ResizeParts,
  size: number,
  l1Size: number,
  l1TableOffset: number,
): void {
  tracker.writeMetadata('header-update', () =>
    writeSizeAndL1Fields(file, { size, cryptMethod: header.cryptMethod, l1Size, l1TableOffset }),
  );
}
