// Changing the size of an extent. A grown part reads as zeros, whatever the last grain or the parent hold there; a smaller size is
// durable before anything behind it is given up, so a crash leaves leaks and never a cut-off grain. A disk that needs more grain
// tables than its directory has gets longer directories, and the tables, behind everything else: zeros, the directories, fdatasync,
// and then one write of the header, after which the old directories are space that nothing refers to. It is given back at the next clean
// mark (unused-space.ts), like the tables of what a shrink has cut off.

import {
  guestCluster,
  type HostOffset,
  hostOffset,
  MAX_VIRTUAL_SIZE,
  roundUp,
  SECTOR_BYTES,
} from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { growOverBacking } from '../../mapped/backing.ts';
import type { Collaborators } from './collaborators.ts';
import { ENTRY_BYTES, MAX_DIRECTORY_ENTRIES } from './header.ts';
import type { NewPlaces } from './layout.ts';

export type WriteHeader = (places: NewPlaces) => void;

/** Sets the size to `size` bytes, rounded up to 512. @param writeHeader one write within a sector @throws limit */
export function resize(parts: Collaborators, size: number, writeHeader: WriteHeader): void {
  const padded = roundUp(size, SECTOR_BYTES);
  checkLimit(parts, padded);
  finishShrink(parts);
  const old = parts.disk.virtualSizeOutsideLock();
  if (padded > old) grow(parts, old, padded, writeHeader);
  else if (padded < old) shrink(parts, old, padded, writeHeader);
}

function checkLimit({ file: { path }, geometry, layout }: Collaborators, size: number): void {
  const ofKind = layout.kind === 'VMFSSPARSE' ? (2 ** 32 - 1) * SECTOR_BYTES : MAX_VIRTUAL_SIZE;
  const most = Math.min(ofKind, MAX_DIRECTORY_ENTRIES * geometry.tableCoverage);
  if (size <= most) return;
  throw new ImgfuseError('limit', `${path} cannot hold ${size} bytes of a disk: its grains reach ${most} bytes`, {
    path,
  });
}

function grow(parts: Collaborators, old: number, size: number, writeHeader: WriteHeader): void {
  const { deallocator, flush, geometry } = parts;
  deallocator.zeroBehindEnd(old);
  // a shrink that was cut short, by a crash or a full host, has left grains behind the end
  const inTables = tablesFor(parts, old) * geometry.tableEntries;
  deallocator.cutOff(guestCluster(geometry.grainsFor(old)), Math.min(inTables, geometry.grainsFor(size)));
  if (tablesFor(parts, size) > tablesFor(parts, old)) lengthenDirectories(parts, old, size, writeHeader);
  growOverBacking(parts, geometry.grainBytes, old, size, () => setSize(parts, size, writeHeader));
  flush.run();
}

function shrink(parts: Collaborators, old: number, size: number, writeHeader: WriteHeader): void {
  const { deallocator, flush, geometry, lock, numbers } = parts;
  flush.run();
  setSize(parts, size, writeHeader);
  lock.run(() => {
    numbers.noteUncut(geometry.grainsFor(old));
    if (tablesFor(parts, size) < tablesFor(parts, old)) numbers.noteLeftTables(true);
  });
  flush.run();
  deallocator.zeroBehindEnd(size);
  finishShrink(parts);
}

/** Gives up the grains behind the end. A full host may have kept a shrink from that; a walk finds them after a crash. */
export function finishShrink({ deallocator, disk, flush, geometry, lock, numbers, tracker }: Collaborators): void {
  const end = lock.run(() => numbers.uncutEnd);
  if (end === 0) return;
  deallocator.cutOff(guestCluster(geometry.grainsFor(disk.virtualSizeOutsideLock())), end);
  tracker.noteWrite();
  flush.run();
  lock.run(() => {
    if (numbers.uncutEnd === end) numbers.noteUncut(0);
  });
}

function tablesFor({ geometry }: Collaborators, size: number): number {
  return Math.ceil(size / geometry.tableCoverage);
}

/** The header says the new size. */
function setSize(parts: Collaborators, capacity: number, writeHeader: WriteHeader): void {
  const { disk, lock, numbers, reservations, tracker, unclean } = parts;
  // before all grains are reserved, because it may wait for the disk
  lock.run(() => unclean.set());
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    unclean.set();
    const { directoryOffset, redundantOffset } = numbers;
    const places = { capacity, directoryEntries: tablesFor(parts, capacity), directoryOffset, redundantOffset };
    tracker.writeMetadata('header-update', () => writeHeader(places));
    disk.setVirtualSize(capacity);
  });
  tracker.noteWrite();
}

/** Directories of their new length, and the tables that hosted extents have from the start, come into use; the size stays. */
function lengthenDirectories(parts: Collaborators, old: number, size: number, writeHeader: WriteHeader): void {
  const { allocator, flush, geometry, layout, lock, numbers, reservations, tables, tracker, unclean } = parts;
  const [used, entries] = [tablesFor(parts, old), tablesFor(parts, size)];
  const copies = lock.run(() => numbers.redundantOffset) === 0 ? 1 : 2;
  const directoryBytes = roundUp(entries * ENTRY_BYTES, SECTOR_BYTES);
  const newTables = layout.kind === 'SPARSE' ? entries - used : 0;
  const copyBytes = directoryBytes + newTables * geometry.tableBytes;
  // no table comes into being while the directories are copied, and nobody cuts the file
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    unclean.set();
    const place = allocator.allocateBytes(copies * copyBytes);
    let isUsed = false;
    try {
      moveDirectories(place);
      isUsed = true;
    } finally {
      if (!lock.held) lock.lock();
      if (!isUsed) allocator.release(place, Math.ceil((copies * copyBytes) / geometry.grainBytes));
    }
  });
  tracker.noteWrite();
  flush.run();

  function moveDirectories(place: HostOffset): void {
    const from = [numbers.directoryOffset, numbers.redundantOffset].slice(0, copies);
    const to = from.map((_, copy) => place + copy * copyBytes);
    for (const [copy, offset] of to.entries()) {
      writeDirectory(parts, from[copy]!, offset, used, offset + directoryBytes, newTables);
    }
    tables.forget(place, copies * copyBytes);
    lock.unlock();
    tracker.sync();
    lock.lock();
    const [directoryOffset, redundantOffset = 0] = to as [number, number?];
    const places = { capacity: old, directoryEntries: used, directoryOffset, redundantOffset };
    tracker.writeMetadata('header-update', () => writeHeader(places));
    numbers.moveDirectories(directoryOffset, redundantOffset);
    numbers.noteLeftTables(true);
  }
}

/** Copies `used` entries of a directory, and adds those of tables that follow each other. */
function writeDirectory(
  { file, geometry, tables }: Collaborators,
  from: number,
  to: number,
  used: number,
  firstTable: number,
  newTables: number,
): void {
  const bytes = new Uint8Array(roundUp((used + newTables) * ENTRY_BYTES, SECTOR_BYTES));
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < used; i++) view.setUint32(i * ENTRY_BYTES, tables.load(hostOffset(from), i), true);
  for (let i = 0; i < newTables; i++) {
    const entry = (firstTable + i * geometry.tableBytes) / SECTOR_BYTES;
    view.setUint32((used + i) * ENTRY_BYTES, entry, true);
  }
  file.write(bytes, 0, bytes.length, hostOffset(to));
}
