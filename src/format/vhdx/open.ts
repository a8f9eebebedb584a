// Opening a VHDX. A read-only open checks headers, log, regions and metadata, and replays the log in memory; each entry of the table is
// checked by the read that meets it. A read-write open walks the table as well, so that no write starts from an entry that is not
// true and every place has one owner; then it carries out the log, as the specification asks. It changes nothing else.

import { hostCluster, hostOffset, roundUp } from '../../bytes/offsets.ts';
import type { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { plural } from '../../errors/plural.ts';
import type { HostFile } from '../../host/host-file.ts';
import { countOf } from '../closed-facts.ts';
import {
  type ImageDetails,
  type OpenOptions,
  progressOf,
  type ReadableImage,
  type WritableImage,
} from '../image-format.ts';
import { FreeClusters, MAX_TRACKED_CLUSTERS } from '../mapped/free-clusters.ts';
import { COUNTED_TABLE_BYTES, clustersOnHost, possibleClusters } from '../mapped/host-clusters.ts';
import { cureOf, type DataInFile, sayWhatIsCut } from '../truncated-copy.ts';
import { hasPlace, offsetOf, stateOf } from './bat.ts';
import { type TableCheck, walkTable } from './check/table-walk.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import { invalid, MIB } from './header/fields.ts';
import { type Layout, readLayout } from './header/layout.ts';
import { vhdxImage } from './image.ts';
import { isWhole, mend } from './mend.ts';
import { nextDataWriteGuid, parentReference } from './parent.ts';
import { createVhdxState, type VhdxState } from './state.ts';

const CHUNK_BYTES = 64 * 1024;
/** MiB between blocks that one open makes free; a hostile file may have any number. */
const MAX_RECLAIMED_UNITS = 2 ** 24;

export function openVhdx(file: HostFile, options: OpenOptions): WritableImage {
  const layout = readSoundLayout(file);
  return options.readOnly ? openReadOnly(file, layout, options) : openReadWrite(file, layout, options);
}

function openReadOnly(file: HostFile, layout: Layout, options: OpenOptions): WritableImage {
  const { disk, view } = layout;
  const { blockBytes, virtualSize } = disk;
  const backing = openParent(layout, options);
  sayLog(file, layout, options.log);
  const fileLength = view.size();
  const found = options.isLazy === true ? null : dataIn(layout);
  if (found !== null) sayWhatIsCut(view, found, { bytes: virtualSize, clusterSize: blockBytes }, options.log);
  const estimate = options.isLazy === true ? clustersOnHost : possibleClusters;
  const allocatedClusters = found?.clusters ?? estimate(file, virtualSize, blockBytes);
  const state = createState(layout, options, allocatedClusters, fileLength);
  return vhdxImage(file, state, 0, backing, options.log);
}

function openReadWrite(file: HostFile, layout: Layout, options: OpenOptions): WritableImage {
  const { backing, state } = openForChanges(file, layout, options);
  return vhdxImage(file, state, 0, backing, options.log);
}

/** The state of an image that is to be changed, and its parent. What a crash has left is mended. */
export function openForChanges(
  file: HostFile,
  layout: Layout,
  options: OpenOptions,
): { readonly backing: ReadableImage | null; readonly state: VhdxState } {
  refuseUnwritten(file, layout);
  const allocated = allocatedWhenClosed(file, layout, options);
  if (allocated !== null) {
    const backing = openParent(layout, options);
    return { backing, state: createState(layout, options, allocated, file.size()) };
  }
  // the image's own table comes first: a damaged one is refused before its parent is looked for
  const { report, used } = walkOrRefuse(file, layout, options);
  const backing = openParent(layout, options);
  // an open that fails has changed no byte, so the log comes last
  const fileEnd = roundUp(report.imageEndOffset, MIB);
  const isClean = isWhole(layout) && report.leaks === 0;
  const sound = isClean ? layout : mended(file, layout, fileEnd, report.leaks, options.log);
  const state = createState(sound, options, report.allocatedClusters, fileEnd);
  reclaimGaps(state, used, fileEnd / MIB);
  return { backing, state };
}

function openParent(layout: Layout, options: OpenOptions): ReadableImage | null {
  const reference = parentReference(layout);
  if (reference === null) return null;
  const backing = options.openBacking(reference);
  if (!options.readOnly) assertSameSectors(layout, backing);
  return backing;
}

/** The parent may change into one of other sectors only under another DataWriteGuid, so any_parent or a damaged image lead here. */
function assertSameSectors({ disk, view }: Layout, backing: ReadableImage | null): void {
  const found = backing?.details().sectorSize ?? disk.sectorBytes;
  if (found === disk.sectorBytes) return;
  const { path } = view;
  throw unsupported(
    path,
    `${path} has sectors of ${disk.sectorBytes} bytes, and those of its backing file ${backing!.file.path} have ${found}; mount it with -o ro`,
  );
}

/** How many blocks there are in an image that was closed clean and not touched since; null if it is not that image. */
function allocatedWhenClosed(file: HostFile, layout: Layout, { closedFacts }: OpenOptions): number | null {
  if (closedFacts === undefined || !isWhole(layout)) return null;
  const size = file.size();
  if (countOf(closedFacts, 'units', size / MIB) !== size / MIB) return null;
  return countOf(closedFacts, 'allocatedClusters', new Geometry(layout.disk).blockCount);
}

function createState(layout: Layout, options: OpenOptions, allocatedClusters: number, fileEnd: number): VhdxState {
  const { disk, headers, view } = layout;
  const size = { virtualSize: disk.virtualSize, fileLength: view.size(), fileEnd };
  const nextGuid = options.readOnly ? null : nextDataWriteGuid(view.path, headers.current, options.committedFrom);
  return createVhdxState(layout, { allocatedClusters, ...options, ...size, details: detailsOf(layout), nextGuid });
}

/** What is read, and not written. */
function refuseUnwritten({ isDevice, path }: HostFile, { disk, headers }: Layout): void {
  if (isDevice) {
    const why = disk.isFixed ? 'imgfuse writes a VHDX in a file only' : 'a VHDX grows with its file';
    throw unsupported(path, `${path} is a block device, and ${why}; mount it with -o ro, or copy it to a file`);
  }
  if (headers.current.logLength > 0) return;
  throw unsupported(path, `${path} has no log, without which no VHDX is written; mount it with -o ro`);
}

function unsupported(path: string, sentence: string): ImgfuseError {
  return new ImgfuseError('unsupported', sentence, { path });
}

/** Walks the table, as the log leaves it, and writes nothing. Throws what cannot be repaired safely. */
function walkOrRefuse(file: HostFile, layout: Layout, options: OpenOptions): TableCheck {
  let first = '';
  const log = (sentence: string): void => {
    if (first === '' && sentence.startsWith('ERROR BAT')) first = sentence.slice('ERROR '.length);
  };
  const steps = progressOf(`checking ${file.path}`, options.progress);
  const found = walkTable(layout, { log, ...steps }, true);
  const errors = found.report.checkErrors + found.report.corruptions;
  if (errors === 0) return found;
  throw new ImgfuseError(
    'corrupt',
    `${file.path}: its block allocation table has ${plural(errors, 'error')}, the first: ${first}; it is not opened for ` +
      `writing. See them with imgfuse check, ${cureOf(found.cutOff, found.shared.length === errors)}`,
    { path: file.path },
  );
}

/** The image with what its log holds in its places, and without what a crash has left behind everything that is in use. */
function mended(
  file: HostFile,
  layout: Layout,
  fileEnd: number,
  leaks: number,
  log: (sentence: string) => void,
): Layout {
  const { headers, regions, replay } = layout;
  mend(file, layout);
  if (replay !== null) log(`${file.path} was not closed; what its log holds was carried out`);
  else if (headers.current.logGuid !== null)
    log(`${file.path} was not closed, and its log has no valid entry; its headers name no log any more`);
  if (headers.damaged !== null || regions.damaged !== null)
    log(`${file.path}: a damaged header or region table was replaced by its twin`);
  if (leaks > 0) log(`${file.path} was not closed clean; ${leaks} leaked blocks are reclaimed`);
  if (file.size() > fileEnd) {
    file.truncate(fileEnd);
    file.sync();
  }
  return readSoundLayout(file);
}

/** Whole MiB between what is in use. That nothing refers to them may not be durable yet, so they take two flushes (R5). */
function reclaimGaps(state: VhdxState, used: SparseBitmap, units: number): void {
  const free = new FreeClusters(state.free);
  let room = MAX_RECLAIMED_UNITS;
  for (const gap of used.gaps(Math.min(units, MAX_TRACKED_CLUSTERS))) {
    const count = Math.min(gap.end - gap.start, room);
    free.markFreed(hostCluster(gap.start), count);
    room -= count;
    if (room === 0) return;
  }
}

/** As readLayout(), and the table has an entry for every block. */
export function readSoundLayout(file: HostFile): Layout {
  const layout = readLayout(file);
  const { bat } = layout.regions;
  const { entryCount } = new Geometry(layout.disk);
  if (entryCount * ENTRY_BYTES <= bat.end - bat.start) return layout;
  throw invalid(
    file,
    bat.start,
    `its block allocation table has room for ${(bat.end - bat.start) / ENTRY_BYTES} entries, and the disk needs ${entryCount}`,
  );
}

export function detailsOf({ disk, headers }: Layout): ImageDetails {
  const backing = parentReference({ disk, headers });
  return {
    format: 'vhdx',
    virtualSize: disk.virtualSize,
    clusterSize: disk.blockBytes,
    dirty: headers.current.logGuid !== null,
    ...(headers.current.logLength === 0 ? { isOnlyRead: true } : {}),
    sectorSize: disk.sectorBytes,
    identity: headers.current.dataWriteGuid,
    ...(backing === null ? {} : { backing }),
    specific: {},
  };
}

export function sayLog({ path }: HostFile, { headers, replay }: Layout, log: (sentence: string) => void): void {
  if (replay !== null) {
    const entries = `${replay.entries} ${replay.entries === 1 ? 'entry' : 'entries'}`;
    log(`${path} was not closed; what its log holds (${entries}) is read as if it had been carried out`);
  } else if (headers.current.logGuid !== null) {
    log(`${path} was not closed, and its log has no valid entry; it is read as it is`);
  }
}

/** @returns null if there are so many entries that counting would take a noticeable time */
function dataIn({ disk, regions, view }: Layout): DataInFile | null {
  const geometry = new Geometry(disk);
  const bytes = geometry.entryCount * ENTRY_BYTES;
  if (bytes > COUNTED_TABLE_BYTES) return null;
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
  const words = new DataView(chunk.buffer);
  let [clusters, end] = [0, 0];
  for (let done = 0; done < bytes; done += chunk.length) {
    const part = Math.min(chunk.length, bytes - done);
    const got = view.read(chunk, 0, part, hostOffset(regions.bat.start + done));
    for (let at = 0; at + ENTRY_BYTES <= got; at += ENTRY_BYTES) {
      const low = words.getUint32(at, true);
      if (!hasPlace(stateOf(low)) || geometry.isBitmapEntry((done + at) / ENTRY_BYTES)) continue;
      clusters++;
      end = Math.max(end, offsetOf(low, words.getUint32(at + 4, true)) + geometry.blockBytes);
    }
  }
  return { clusters, end };
}
