// Names another parent in the metadata, or none. What the image says of its parent, and whether it has one at all, changes with one
// entry of the log: a crash leaves the old parent or the new one. Without a parent there are no partially present blocks, so these
// become whole first, with zeros where the parent shows: that is what lies there by then, or what the user says that lies there.
//
//   zeros under clear bits -> S -> log entries: fully present, no bitmaps -> log entry: no parent
//   the entries of bitmaps are 0 -> log entry: a parent
//
// (S is a fdatasync.) A new DataWriteGuid is durable before all of it: a child of this image may see something else over another parent.

import { after, type GuestCluster, guestCluster, guestOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { BackingReference, ParentFacts } from '../image-format.ts';
import { PAYLOAD_BLOCK_FULLY_PRESENT, PAYLOAD_BLOCK_PARTIALLY_PRESENT } from './bat.ts';
import { type Collaborators, connect } from './collaborators.ts';
import { Geometry } from './geometry.ts';
import { serializeLocator } from './header/locator.ts';
import { parentChanges } from './header/metadata.ts';
import { closeParts } from './image.ts';
import { makeRoomInBat } from './move-bat.ts';
import { openForChanges, readSoundLayout } from './open.ts';
import { newLocator } from './parent.ts';

const REFUSAL = 'is not rebased';
const TABLE_CACHE_BYTES = 1024 * 1024;

/** @throws ImgfuseError usage, unsupported, corrupt, limit: nothing that the guest sees is changed */
export function setVhdxBacking(
  file: HostFile,
  backing: BackingReference | null,
  parent?: ParentFacts,
  log: (sentence: string) => void = () => undefined,
): void {
  if (backing !== null) assertVhdxBacking(file, backing, parent);
  const layout = readSoundLayout(file);
  if (backing === null && layout.disk.parent === null) return;
  const locator = backing === null ? null : serializeLocator(newLocator(file.path, REFUSAL, backing, parent));
  const options = {
    ...{ readOnly: false, log, tableCacheBytes: TABLE_CACHE_BYTES, slots: 1, probed: false },
    // no byte of the disk is read
    openBacking: () => null as never,
  };
  const { state } = openForChanges(file, layout, options);
  const parts = connect(file, null, state, 0, log);
  try {
    if (backing === null) completeAll(parts);
    else if (layout.disk.parent === null) prepareTable(parts);
    const { metadata } = layout.regions;
    parts.lock.run(() => parts.linker.commit(() => parentChanges(file, metadata, locator)));
    flush(parts);
  } finally {
    closeParts(parts);
  }
}

/** @throws ImgfuseError usage: an image with this parent could not be used */
export function assertVhdxBacking(file: HostFile, backing: BackingReference, parent?: ParentFacts): void {
  newLocator(file.path, REFUSAL, backing, parent);
  const { isFixed, sectorBytes } = readSoundLayout(file).disk;
  const why = isFixed
    ? 'a fixed VHDX has no backing file; copy its disk into an image that is not fixed'
    : parent?.sectorSize !== undefined && parent.sectorSize !== sectorBytes
      ? `its sectors have ${sectorBytes} bytes, and those of ${backing.name} have ${parent.sectorSize}`
      : null;
  if (why === null) return;
  throw new ImgfuseError('usage', `${file.path} ${REFUSAL}: ${why}`, { path: file.path });
}

function flush({ flush: flushing, tracker }: Collaborators): void {
  tracker.noteWrite();
  flushing.run();
}

/** No block is here in parts, and no chunk has a bitmap. */
function completeAll(parts: Collaborators): void {
  const { allocator, geometry, linker, lock, mapper } = parts;
  for (let chunk = 0; chunk < geometry.chunksFor(geometry.blockCount); chunk++) {
    const blocks: GuestCluster[] = [];
    const end = Math.min(geometry.firstBlockOf(chunk + 1), geometry.blockCount);
    for (let block = geometry.firstBlockOf(chunk); block < end; block = after(block, 1)) {
      if (lock.run(() => mapper.stateOf(block)) === PAYLOAD_BLOCK_PARTIALLY_PRESENT) blocks.push(block);
    }
    if (blocks.length > 0) completeBlocks(parts, blocks);
    const place = lock.run(() => linker.removeBitmap(chunk, () => true));
    if (place !== null) lock.run(() => allocator.release(place, 1));
  }
  flush(parts);
}

function completeBlocks(parts: Collaborators, blocks: readonly GuestCluster[]): void {
  const { linker, lock, mapper } = parts;
  for (const block of blocks) zeroWhatIsNotHere(parts, block);
  flush(parts);
  for (const block of blocks) {
    lock.run(() => linker.set(block, PAYLOAD_BLOCK_FULLY_PRESENT, mapper.lookup(block).place!));
  }
}

function zeroWhatIsNotHere({ file, geometry, lock, mapper, session }: Collaborators, block: GuestCluster): void {
  const start = geometry.startOf(block);
  lock.run(() => session.change());
  const place = lock.run(() => mapper.lookup(block).place!);
  for (let done = 0; done < geometry.blockBytes; ) {
    const from = done;
    const { length, status } = lock.run(() => mapper.map(guestOffset(start + from), geometry.blockBytes - from));
    if (status !== 'data') file.punchHole(after(place, from), length);
    done += length;
  }
}

/** With a parent the table has more entries, of which those that nobody has read until now may be anything. */
function prepareTable(parts: Collaborators): void {
  const { deallocator, geometry, linker, lock, state } = parts;
  const chunks = geometry.chunksFor(geometry.blockCount);
  const { entryCount } = new Geometry({ ...state.disk, parent: 'one' });
  makeRoomInBat(parts, entryCount);
  deallocator.forget(guestCluster(geometry.blockCount), geometry.firstBlockOf(chunks));
  lock.run(() => linker.forgetBitmaps(0, chunks));
  flush(parts);
}
