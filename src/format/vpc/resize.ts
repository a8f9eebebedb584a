// Changing the size of a dynamic or differencing disk. Both footers have the size; they are changed so that at any moment one of
// them is right, or both are the same:
//
//   the footer at the end is wiped -> S -> the copy at offset 0 is written -> S -> the footer at the end is written -> S
//
// A grown part reads as zeros, whatever the last block or the parent has there, before the size is changed; a smaller size is durable
// before anything behind it is given up. A table that is too short is copied behind all blocks, and comes into use with one sector
// of the header.

import { after, guestCluster, hostOffset, MAX_VIRTUAL_SIZE, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError, isHostFull } from '../../errors/index.ts';
import { growOverBacking } from '../mapped/backing.ts';
import type { Collaborators } from './collaborators.ts';
import { FOOTER_BYTES, footerOfSize, MAX_DISK_BYTES } from './header/footer.ts';
import { ENTRY_BYTES, HEADER_BYTES, headerWithTable, MAX_TABLE_ENTRIES, tableBytesOf } from './header/header.ts';
import { UNUSED_ENTRY } from './table.ts';

/** Of a new table, copied at once. */
const CHUNK_BYTES = 64 * 1024;

export type ResizeParts = Omit<Collaborators, 'allocating' | 'copier' | 'imageMap' | 'runs'>;

/** Sets the virtual size to `size` bytes, rounded up to 512. Throws limit where the format has no such disk. */
export function resize(parts: ResizeParts, size: number): void {
  const padded = roundUp(size, SECTOR_BYTES);
  checkLimit(parts, padded);
  const old = parts.disk.virtualSizeOutsideLock();
  if (padded > old) grow(parts, old, padded);
  else if (padded < old) shrink(parts, old, padded);
}

function checkLimit({ file: { path }, geometry }: ResizeParts, size: number): void {
  const most = Math.min(MAX_DISK_BYTES, MAX_TABLE_ENTRIES * geometry.blockSize, MAX_VIRTUAL_SIZE);
  if (size <= most) return;
  throw new ImgfuseError(
    'limit',
    `${path} cannot have ${size} bytes: a VHD in blocks of ${geometry.blockSize} bytes reaches ${most}`,
    {
      path,
    },
  );
}

function grow(parts: ResizeParts, old: number, size: number): void {
  const { deallocator, geometry, hasStrays, lock, numbers } = parts;
  const [oldBlocks, blocks] = [geometry.blocksFor(old), geometry.blocksFor(size)];
  deallocator.zeroBehindEnd(old);
  const entries = lock.run(() => numbers.tableEntries);
  // a shrink that was cut short has left blocks behind the end
  const [first, end] = [guestCluster(oldBlocks), guestCluster(Math.min(blocks, entries))];
  if (hasStrays) deallocator.forget(first, end);
  else deallocator.cutOff(first, end);
  if (blocks > entries) {
    if (tableBytesOf(blocks) === tableBytesOf(entries)) lengthenTable(parts, entries, blocks);
    else moveTable(parts, Math.min(oldBlocks, entries), blocks);
  }
  growOverBacking(parts, geometry.blockSize, old, size, () => setSize(parts, size));
}

function shrink(parts: ResizeParts, old: number, size: number): void {
  const { deallocator, flush, geometry, tracker } = parts;
  flush.run();
  setSize(parts, size);
  deallocator.zeroBehindEnd(size);
  deallocator.cutOff(guestCluster(geometry.blocksFor(size)), guestCluster(geometry.blocksFor(old)));
  tracker.noteWrite();
  flush.run();
}

/** Runs `action` when no request is in flight and no link waits; without the lock, which nobody needs meanwhile. */
function alone(parts: ResizeParts, action: () => void): void {
  const { flush, lock, reservations } = parts;
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    lock.unlock();
    try {
      flush.linkEarly();
      action();
    } finally {
      lock.lock();
    }
  });
}

/** The footers say the new size. */
function setSize(parts: ResizeParts, size: number): void {
  const { disk, file, footer, lock, numbers, tracker } = parts;
  alone(parts, () => {
    const trailer = hostOffset(lock.run(() => numbers.fileLength) - FOOTER_BYTES);
    const before = footer.slice();
    const after = footerOfSize(before, size);
    const put = (bytes: Uint8Array, at: number): void => {
      tracker.writeMetadata('header-update', () => file.write(bytes, 0, FOOTER_BYTES, hostOffset(at)));
      tracker.sync();
    };
    put(new Uint8Array(FOOTER_BYTES), trailer);
    try {
      put(after, 0);
    } catch (error) {
      // a full host has not touched the copy, so the end of the file gets back what it had; after any other error nobody knows
      // what the copy says, and it alone must say it
      if (tracker.failure() === null) {
        tracker.writeMetadata('header-update', () => file.write(before, 0, FOOTER_BYTES, trailer));
      }
      throw error;
    }
    lock.run(() => {
      footer.set(after);
      disk.setVirtualSize(size);
    });
    try {
      put(after, trailer);
    } catch (error) {
      // the copy says the new size, and the next open for writing mends the end of the file
      if (!isHostFull(error)) throw error;
    }
  });
}

/** More entries in the sectors that the table takes already; they say that the blocks are not there before they count. */
function lengthenTable(parts: ResizeParts, from: number, entries: number): void {
  const { lock, numbers, tables, tracker } = parts;
  alone(parts, () => {
    lock.run(() => {
      for (let block = guestCluster(from); block < entries; ) {
        const count = Math.min(tables.span(block), entries - block);
        tracker.writeMetadata('l2-update', () => tables.store(block, count, UNUSED_ENTRY));
        block = after(block, count);
      }
    });
    tracker.sync();
    writeHeader(
      parts,
      lock.run(() => numbers.tableOffset),
      entries,
    );
    lock.run(() => numbers.lengthenTable(entries));
    tracker.sync();
  });
}

/** One sector of the header says where the table is, and how long. */
function writeHeader({ file, mapper, tracker }: ResizeParts, tableOffset: number, entries: number): void {
  const at = hostOffset(mapper.headerOffset);
  const header = new Uint8Array(HEADER_BYTES);
  file.read(header, 0, HEADER_BYTES, at);
  const sector = headerWithTable(header, tableOffset, entries);
  tracker.writeMetadata('header-update', () => file.write(sector, 0, SECTOR_BYTES, at));
}

/** A table of `entries` entries behind all blocks, with the first `used` ones of the old table. */
function moveTable(parts: ResizeParts, used: number, entries: number): void {
  const { allocator, file, lock, numbers, tracker } = parts;
  const place = allocator.allocateBytes(tableBytesOf(entries));
  alone(parts, () => {
    const old = lock.run(() => numbers.tableOffset);
    const chunk = new Uint8Array(CHUNK_BYTES);
    const bytes = tableBytesOf(entries);
    for (let done = 0; done < bytes; done += chunk.length) {
      const part = Math.min(chunk.length, bytes - done);
      const kept = Math.max(0, Math.min(part, used * ENTRY_BYTES - done));
      chunk.fill(0xff);
      if (kept > 0) file.read(chunk, 0, kept, hostOffset(old + done));
      file.write(chunk, 0, part, hostOffset(place + done));
    }
    tracker.sync();
    writeHeader(parts, place, entries);
    lock.run(() => {
      parts.tables.rewritten(place, bytes);
      numbers.moveTable(place, entries, place + bytes);
    });
    tracker.sync();
  });
}
