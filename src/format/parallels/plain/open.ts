// Opening an image of one file. An open for writing walks the BAT, unless it is known that nothing has changed since imgfuse closed
// the image: no write starts from an entry that is not true, and every cluster has one owner. What a crash leaves is taken back then.

import { dirname } from 'node:path';
import { hostCluster, hostOffset } from '../../../bytes/offsets.ts';
import type { SparseBitmap } from '../../../bytes/sparse-bitmap.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { plural } from '../../../errors/plural.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { identityAt } from '../../../host/paths.ts';
import { limitedLog } from '../../check-report.ts';
import { countOf } from '../../closed-facts.ts';
import { type OpenOptions, progressOf, type WritableImage } from '../../image-format.ts';
import { FreeClusters, MAX_TRACKED_CLUSTERS } from '../../mapped/free-clusters.ts';
import { COUNTED_TABLE_BYTES, clustersOnHost, possibleClusters } from '../../mapped/host-clusters.ts';
import { type DataInFile, sayWhatIsCut } from '../../truncated-copy.ts';
import { dropExtension, HEADER_BYTES, type ParallelsHeader, readHeader, writeInUse } from '../header.ts';
import { DESCRIPTOR_FILE } from '../signature.ts';
import { type BatCheck, checkBat } from './bat-walk.ts';
import { assertDroppable, readExtension } from './extension.ts';
import { ENTRY_BYTES } from './geometry.ts';
import { type Grid, gridOf } from './grid.ts';
import { plainImage } from './image.ts';
import { createPlainState, type PlainState } from './state.ts';

/** Leaks that one open takes back; a hostile file may have any number. */
const MAX_RECLAIMED_CLUSTERS = 2 ** 24;

/** @throws ImgfuseError corrupt, unsupported */
export function openPlain(file: HostFile, options: OpenOptions): WritableImage {
  const header = readHeader(file);
  sayIfPart(file, options.log);
  return options.readOnly ? openReadOnly(file, header, options) : openWritable(file, header, options);
}

/** A file does not say whether it is all of a disk. Whoever opens one of several sees a part, and may write to it. */
function sayIfPart(file: HostFile, log: OpenOptions['log']): void {
  if (file.remote !== undefined || identityAt(`${dirname(file.path)}/${DESCRIPTOR_FILE}`) === null) return;
  log(
    `${file.path} is one file of a disk: if the ${DESCRIPTOR_FILE} beside it lists other files, or snapshots, this one shows a part ` +
      `of the disk, and zeros in place of the rest; open the ${DESCRIPTOR_FILE} instead`,
  );
}

function openWritable(file: HostFile, header: ParallelsHeader, options: OpenOptions): WritableImage {
  if (file.isDevice) {
    const sentence = `${file.path} is a block device, and a Parallels image grows with its file; mount it with -o ro, or copy it to a file`;
    throw new ImgfuseError('unsupported', sentence, { path: file.path });
  }
  assertDroppable(file, header, readExtension(file, header));
  const allocatedClusters = allocatedWhenClosed(file, header, options);
  if (allocatedClusters !== null) {
    const grid = gridOf(file, header);
    const fileEnd = Math.max(grid.dataStart, file.size());
    const state = stateOf(file, header, grid, { allocatedClusters, ...options, fileEnd, isInUse: false });
    return plainImage(file, state, 0, options.log);
  }
  // the clusters of an extension, which is dropped, belong to nobody
  const bare = { ...header, extension: 0 };
  const walk = repairIfInUse(file, bare, options, walkOrRefuse(file, bare, options));
  if (header.isMarkedEmpty && walk.report.allocatedClusters > 0) {
    const sentence = `${file.path} says that it is empty, and its BAT has ${walk.report.allocatedClusters} clusters; it is not opened for writing`;
    throw new ImgfuseError('corrupt', sentence, { path: file.path });
  }
  if (header.extension !== 0)
    options.log(`${file.path}: its format extension (dirty bitmaps) is dropped, because the disk can change`);
  if (header.extension !== 0 || header.isMarkedEmpty) {
    dropExtension(file);
    file.sync();
  }
  takeBackEnd(file, walk, options.log);
  const reclaims =
    walk.used.count <
    walk.grid.geometry.hostClusterFrom(walk.end) - walk.grid.geometry.hostClusterOf(walk.grid.dataStart);
  if (reclaims && !header.isInUse) {
    writeInUse(file, true);
    file.sync();
  }
  const state = stateOf(file, bare, walk.grid, {
    allocatedClusters: walk.report.allocatedClusters,
    ...options,
    fileEnd: walk.end,
    isInUse: header.isInUse || reclaims,
  });
  if (reclaims) reclaimLeaks(state, walk.used, walk.grid, walk.end);
  return plainImage(file, state, 0, options.log);
}

type OwnOptions = OpenOptions &
  Pick<Parameters<typeof createPlainState>[1], 'allocatedClusters' | 'fileEnd' | 'isInUse'>;

function stateOf(file: HostFile, header: ParallelsHeader, { dataStart, phase }: Grid, options: OwnOptions): PlainState {
  return createPlainState(header, {
    ...options,
    ...{ dataStart, phase, fileLength: file.size(), virtualSize: header.diskBytes },
  });
}

/** How many clusters of the disk had data when the image was closed clean; null if it is not that image, or not known. */
function allocatedWhenClosed(file: HostFile, header: ParallelsHeader, { closedFacts }: OpenOptions): number | null {
  const { diskBytes, extension, isInUse, isMarkedEmpty } = header;
  if (closedFacts === undefined || isInUse || isMarkedEmpty || extension !== 0) return null;
  const { dataStart, geometry } = gridOf(file, header);
  const size = file.size();
  if (size > dataStart && !geometry.isAligned(size)) return null;
  return countOf(closedFacts, 'allocatedClusters', geometry.clustersFor(diskBytes));
}

/** Checks nothing but the header: each entry is checked by the read that meets it. */
function openReadOnly(file: HostFile, header: ParallelsHeader, options: OpenOptions): WritableImage {
  const { clusterBytes, diskBytes, isInUse } = header;
  if (isInUse) {
    options.log(`${file.path} was not closed clean, or another program has it open for writing; it is read as it is`);
  }
  const found = options.isLazy === true ? null : dataIn(file, header);
  if (found !== null) sayWhatIsCut(file, found, { bytes: diskBytes, clusterSize: clusterBytes }, options.log);
  const estimate = options.isLazy === true ? clustersOnHost : possibleClusters;
  const allocatedClusters = found?.clusters ?? estimate(file, diskBytes, clusterBytes);
  const grid = gridOf(file, header);
  // what is only read may lie beside the grid
  const lenient = {
    ...grid,
    dataStart: header.dataOffset,
  };
  const state = stateOf(file, header, lenient, { allocatedClusters, ...options, fileEnd: file.size(), isInUse });
  return plainImage(file, state, 0, options.log);
}

/** @returns null if the BAT is so large that counting would take a noticeable time */
function dataIn(file: HostFile, header: ParallelsHeader): DataInFile | null {
  const { batEntries, clusterBytes, diskBytes, unitBytes } = header;
  const bytes = Math.min(batEntries, Math.ceil(diskBytes / clusterBytes)) * ENTRY_BYTES;
  if (bytes > COUNTED_TABLE_BYTES) return null;
  const bat = new DataView(new ArrayBuffer(bytes));
  file.read(new Uint8Array(bat.buffer), 0, bytes, hostOffset(HEADER_BYTES));
  let [clusters, end] = [0, 0];
  for (let at = 0; at < bytes; at += ENTRY_BYTES) {
    const entry = bat.getUint32(at, true);
    if (entry === 0) continue;
    clusters++;
    end = Math.max(end, entry * unitBytes + clusterBytes);
  }
  return { clusters, end };
}

/** Walks the BAT and writes nothing. Throws what cannot be repaired safely. */
function walkOrRefuse(file: HostFile, header: ParallelsHeader, options: OpenOptions): BatCheck {
  let first = '';
  const log = (sentence: string): void => {
    if (first === '' && sentence.startsWith('ERROR BAT entry')) first = sentence.slice('ERROR '.length);
  };
  const found = checkBat(file, header, {
    repair: 'none',
    log,
    ...progressOf(`checking ${file.path}`, options.progress),
  });
  const { doubleReferences } = found;
  const errors = errorsIn(found);
  if (errors === 0 || (header.isInUse && doubleReferences === 0 && found.report.checkErrors === 0)) return found;
  const doubles = doubleReferences > 0 ? `, ${doubleReferences} of them clusters used twice or beside the grid` : '';
  throw new ImgfuseError(
    'corrupt',
    `${file.path}: its BAT has ${plural(errors, 'error')}${doubles}, the first: ${first}; it is not opened for writing. See them with imgfuse ` +
      `check ${file.path}, repair a copy with imgfuse check -r all, or mount with -o ro`,
    { path: file.path },
  );
}

/** Repairs the BAT of an image that was not closed, and says so. @returns what it is then */
function repairIfInUse(file: HostFile, header: ParallelsHeader, options: OpenOptions, found: BatCheck): BatCheck {
  if (!header.isInUse) return found;
  const { leaks } = found.report;
  const errors = errorsIn(found);
  if (errors === 0) {
    options.log(`${file.path} was not closed clean; checked: no errors, ${leaks} leaked clusters will be reclaimed`);
    return found;
  }
  options.log(`${file.path} was not closed clean; repairing ${plural(errors, 'error')}`);
  checkBat(file, header, { repair: 'all', log: limitedLog(options.log) });
  // the BAT is read back: a host that answers a write and does not do it must not make a damaged image look clean (R7)
  const repaired = checkBat(file, header, { repair: 'none', log: () => undefined });
  if (errorsIn(repaired) === 0) return repaired;
  throw new ImgfuseError(
    'corrupt',
    `${file.path} was repaired, and its BAT still has ${plural(errorsIn(repaired), 'error')}; the host does not keep what is written to it. ` +
      'Copy the image to another disk, and repair the copy with imgfuse check -r all',
    { path: file.path },
  );
}

function errorsIn({ badEntries, doubleReferences, report }: BatCheck): number {
  return badEntries + doubleReferences + report.checkErrors;
}

/**
 * The file ends behind the last cluster in use. That nothing refers to what lies behind may not be durable yet: the process that
 * removed an entry may have ended before its fdatasync (R5). And a cut is durable before anything is allocated there, because new
 * clusters are taken to read as zeros.
 */
function takeBackEnd(file: HostFile, { end, grid }: BatCheck, log: (sentence: string) => void): void {
  const size = file.size();
  if (size > end) {
    file.sync();
    file.truncate(end);
    file.sync();
  } else if (size < end && end > grid.dataStart) {
    log(
      `${file.path} is truncated: its last cluster ends beyond the ${size} bytes of the file, and reads as zeros from there on`,
    );
    file.truncate(end);
    file.sync();
  }
}

/** Frees the clusters between those in use; the header says that the image is in use. */
function reclaimLeaks(state: PlainState, used: SparseBitmap, { dataStart, geometry }: Grid, end: number): void {
  const free = new FreeClusters(state.free);
  const first = geometry.hostClusterOf(dataStart);
  let room = MAX_RECLAIMED_CLUSTERS;
  for (const gap of used.gaps(Math.min(geometry.hostClusterFrom(end), MAX_TRACKED_CLUSTERS))) {
    const start = Math.max(gap.start, first);
    const count = Math.min(gap.end - start, room);
    if (count <= 0) continue;
    free.markFreed(hostCluster(start), count);
    room -= count;
    if (room === 0) return;
  }
}
