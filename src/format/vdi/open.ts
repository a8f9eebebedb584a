// Opening a VDI image. It has no mark that says whether it was closed clean, so a read-write open walks the map, unless it is
// known that nothing has changed since imgfuse closed it: no write starts from an entry that is not true, and every block
// has one owner. What a crash leaves is taken back then: a count that is too high or too low, blocks at the end, blocks without
// an owner.

import { hostCluster } from '../../bytes/offsets.ts';
import type { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { plural } from '../../errors/plural.ts';
import type { HostFile } from '../../host/host-file.ts';
import { countOf } from '../closed-facts.ts';
import { type OpenOptions, progressOf, type ReadableImage, type WritableImage } from '../image-format.ts';
import { FreeClusters, MAX_TRACKED_CLUSTERS } from '../mapped/free-clusters.ts';
import { clustersOnHost, possibleClusters } from '../mapped/host-clusters.ts';
import { countAllocated } from './allocated-blocks.ts';
import { checkMap, type VdiCheck } from './check/map-walk.ts';
import {
  ALLOCATED_AT,
  assertWritable,
  geometryOf,
  readHeader,
  u32Field,
  VDI_IMAGE_TYPE_DIFF,
  VDI_IMAGE_TYPE_FIXED,
  type VdiHeader,
  virtualSizeOf,
  writeHeaderFields,
} from './header.ts';
import { vdiImage } from './image.ts';
import { nextModify, parentReference } from './parent.ts';
import { createVdiState, type VdiState } from './state.ts';

/** Leaks between blocks in use that one open takes back; a hostile file may have any number. */
const MAX_RECLAIMED_BLOCKS = 2 ** 24;

export function openVdi(file: HostFile, options: OpenOptions): WritableImage {
  const header = readHeader(file);
  if (options.readOnly) return openReadOnly(file, header, options);
  assertWritable(file, header);
  if (file.isDevice) {
    const why =
      header.type === VDI_IMAGE_TYPE_FIXED
        ? 'imgfuse writes VDI images in files only'
        : 'a VDI image grows with its file';
    const message = `${file.path} is a block device, and ${why}; mount it with -o ro, or copy it to a file`;
    throw new ImgfuseError('unsupported', message, { path: file.path });
  }
  const named = { nextModify: nextModify(file.path, header, options.committedFrom), ...options };
  const allocated = allocatedWhenClosed(file, header, options);
  if (allocated !== null) {
    const parent = openParent(header, options);
    return vdiImage(file, stateOf(file, header, named, allocated, allocated), 0, parent, options.log);
  }
  // the image's own map comes first: a damaged one is refused before its parent is looked for
  const walk = walkOrRefuse(file, header, options);
  const parent = openParent(header, options);
  // an open that fails has changed no byte, so a repair waits until the chain below is open
  takeBackEnd(file, header, walk, options.log);
  const state = stateOf(file, header, named, walk.end, walk.report.allocatedClusters);
  reclaimLeaks(state, walk.used, walk.end);
  return vdiImage(file, state, 0, parent, options.log);
}

function openParent(header: VdiHeader, options: OpenOptions): ReadableImage | null {
  return header.type === VDI_IMAGE_TYPE_DIFF ? options.openBacking(parentReference(header)) : null;
}

function stateOf(
  file: HostFile,
  header: VdiHeader,
  options: OpenOptions & Pick<VdiState, 'nextModify'>,
  end: number,
  allocatedClusters: number,
): VdiState {
  const place = { fileLength: file.size(), virtualSize: virtualSizeOf(header) };
  return createVdiState(header, { allocatedClusters, ...options, ...place, end, reserved: end });
}

/** How many blocks there are in an image that was closed clean and not touched since; null if it is not that image. */
function allocatedWhenClosed(file: HostFile, header: VdiHeader, { closedFacts }: OpenOptions): number | null {
  if (closedFacts === undefined) return null;
  const allocated = countOf(closedFacts, 'allocatedClusters', header.blockCount);
  if (allocated === null || allocated !== header.allocated) return null;
  return file.size() === geometryOf(header).hostStartOf(allocated, header.dataOffset) ? allocated : null;
}

/** Checks nothing but the header: each entry is checked by the read that meets it. */
function openReadOnly(file: HostFile, header: VdiHeader, options: OpenOptions): WritableImage {
  const parent = openParent(header, options);
  const blocks = geometryOf(header).blocksOf(file.size(), header.dataOffset);
  sayWhatIsCut(file, header, options.log);
  const { blockSize } = header;
  const size = virtualSizeOf(header);
  const allocatedClusters =
    options.isLazy === true
      ? clustersOnHost(file, size, blockSize)
      : (countAllocated(file, header) ?? possibleClusters(file, size, blockSize));
  const end = Math.min(blocks, header.blockCount);
  const unchanged = { nextModify: header.uuidModify, ...options };
  return vdiImage(file, stateOf(file, header, unchanged, end, allocatedClusters), 0, parent, options.log);
}

/** Who reads a truncated copy has to know: its last block reads as zeros from there on, and the ones after it are errors. */
export function sayWhatIsCut(file: HostFile, header: VdiHeader, log: (sentence: string) => void): void {
  const end = geometryOf(header).hostStartOf(Math.min(header.allocated, header.blockCount), header.dataOffset);
  const size = file.size();
  if (size < end) {
    log(`${file.path} is truncated: it has ${size} bytes, and its header counts blocks up to ${end}; those are lost`);
  }
}

/** Walks the map and writes nothing. Throws what cannot be repaired safely. */
function walkOrRefuse(file: HostFile, header: VdiHeader, options: OpenOptions): VdiCheck {
  let first = '';
  const log = (sentence: string): void => {
    if (first === '' && sentence.startsWith('ERROR map entry')) first = sentence.slice('ERROR '.length);
  };
  const steps = progressOf(`checking ${file.path}`, options.progress);
  const found = checkMap(file, header, { repair: 'none', log, ...steps });
  const { badEntries, doubleReferences, report } = found;
  if (badEntries + doubleReferences + report.checkErrors === 0) return found;
  const doubles = doubleReferences > 0 ? `, ${doubleReferences} of them blocks used twice` : '';
  throw new ImgfuseError(
    'corrupt',
    `${file.path}: its map has ${plural(badEntries + doubleReferences + report.checkErrors, 'error')}${doubles}, the first: ${first}; ` +
      `it is not opened for writing. See them with imgfuse check ${file.path}, repair a copy with imgfuse check -r all, ` +
      'or mount with -o ro',
    { path: file.path },
  );
}

/**
 * Count and length become those of the blocks in use. That nothing refers to the others may not be durable yet: the process
 * that removed an entry may have ended before its fdatasync (R5). And a cut is durable before anything is allocated there,
 * because new blocks are taken to read as zeros.
 */
function takeBackEnd(
  file: HostFile,
  header: VdiHeader,
  { end, report }: VdiCheck,
  log: (sentence: string) => void,
): void {
  const length = geometryOf(header).hostStartOf(end, header.dataOffset);
  const size = file.size();
  if (header.allocated === end && size === length && report.leaks === 0) return;
  if (report.leaks > 0) log(`${file.path} was not closed clean; ${report.leaks} leaked blocks will be reclaimed`);
  if (header.allocated === end && size === length) return;
  file.sync();
  if (size < length && end > 0) {
    log(
      `${file.path} is truncated: its last block ends beyond the ${size} bytes of the file, and reads as zeros from there on`,
    );
  }
  // a file that is cut inside its last block, or ends right after its map
  if (size < length) file.truncate(length);
  if (header.allocated !== end) {
    if (header.allocated < end) log(`${file.path}: the count of its blocks was ${header.allocated}, and is ${end} now`);
    writeHeaderFields(file, [u32Field(ALLOCATED_AT, end)]);
  }
  file.sync();
  if (size <= length) return;
  file.truncate(length);
  file.sync();
}

/** Frees the blocks between those in use. */
function reclaimLeaks(state: VdiState, used: SparseBitmap, end: number): void {
  const free = new FreeClusters(state.free);
  let room = MAX_RECLAIMED_BLOCKS;
  for (const gap of used.gaps(Math.min(end, MAX_TRACKED_CLUSTERS))) {
    const count = Math.min(gap.end - gap.start, room);
    free.markFreed(hostCluster(gap.start), count);
    room -= count;
    if (room === 0) return;
  }
}
