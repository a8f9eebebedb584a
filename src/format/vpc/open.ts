// Opening a VHD. The format cannot say whether an image was closed clean, so every read-write open walks its table: no write starts
// from an entry that is not true, and space that nothing refers to is used again. Footers that a crash has left are mended, and said
// so; what may be damage is refused.

import { hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { plural } from '../../errors/plural.ts';
import type { HostFile } from '../../host/host-file.ts';
import {
  type AttachOptions,
  type BackingReference,
  type ImageDetails,
  type OpenOptions,
  progressOf,
  type ReadableImage,
  type SharedImage,
  type WritableImage,
} from '../image-format.ts';
import { FreeClusters, MAX_TRACKED_CLUSTERS } from '../mapped/free-clusters.ts';
import { clustersOnHost, possibleClusters } from '../mapped/host-clusters.ts';
import { cureOf } from '../truncated-copy.ts';
import { countAllocated } from './check/count-allocated.ts';
import { repairLayout } from './check/repair.ts';
import { checkTable, gapsIn, type TableCheck } from './check/table-walk.ts';
import { createFixedState, FixedImage, type FixedState } from './fixed/image.ts';
import { finishResize } from './fixed/resize.ts';
import { Geometry, gridOf, paddedGrid } from './geometry.ts';
import { DIFFERENCING, NO_UUID, timestampOf } from './header/footer.ts';
import { FAULTS, HARMLESS, isSparse, type Layout, readLayout, type SparseLayout } from './header/layout.ts';
import { parentNames } from './header/locator.ts';
import { vpcImage } from './image.ts';
import { createVpcState, type VpcState } from './state.ts';

/** Places between blocks that one open takes back, which a flush punches one by one; a hostile table may leave any number. */
const MAX_RECLAIMED_BLOCKS = 2 ** 16;

export function openVpc(file: HostFile, options: OpenOptions): WritableImage {
  const layout = readLayout(file);
  if (!isSparse(layout)) return openFixed(file, layout, options);
  if (options.readOnly) return openReadOnly(file, layout, options);
  if (file.isDevice) {
    const message = `${file.path} is a block device, and a dynamic VHD grows with its file; mount it with -o ro, or copy it to a file`;
    throw new ImgfuseError('unsupported', message, { path: file.path });
  }
  refuseFaults(file, layout);
  // the image's own table comes first: a damaged one is refused before its chain is looked for
  const found = walkOrRefuse(file, layout, options);
  const backing = openParent(file, layout, options);
  // an open that fails has changed no byte, so a repair waits until the chain below is open
  const { footer, header, size } = mendFaults(file, layout, found.usedEnd, options.log);
  const starts = Array.from(found.starts, (sector) => sector * SECTOR_BYTES);
  const grid = gridOf(header.blockSize, starts, found.usedEnd);
  const state = createVpcState({
    offGridEnd: offGridEnd(new Geometry(header.blockSize, grid), found),
    ...options,
    ...{ header, grid, usedEnd: found.usedEnd, hasBatmap: found.batmap !== null },
    hasStrays: found.hasStrays,
    ...{ footer: footer.bytes, uuid: footer.uuid, type: footer.type, creator: footer.creator },
    fileLength: file.size(),
    virtualSize: size,
    allocatedClusters: starts.length,
  });
  reclaimGaps(state, new Geometry(header.blockSize, grid), found);
  return vpcImage(file, state, 0, backing, options.log);
}

/** Checks nothing but footers and header: each entry is checked by the read that meets it. */
function openReadOnly(file: HostFile, layout: SparseLayout, options: OpenOptions): WritableImage {
  const { footer, header, size } = layout;
  const backing = openParent(file, layout, options);
  sayFaults(file, layout, options.log);
  const blocks =
    options.isLazy === true
      ? clustersOnHost(file, size, header.blockSize)
      : (countAllocated(file, header, size) ?? possibleClusters(file, size, header.blockSize));
  const fileLength = file.size();
  const state = createVpcState({
    fileLength,
    ...options,
    ...{ header, grid: paddedGrid(header.blockSize, 0), usedEnd: fileLength, offGridEnd: fileLength, hasBatmap: false },
    hasStrays: false,
    ...{ footer: footer.bytes, uuid: footer.uuid, type: footer.type, creator: footer.creator },
    virtualSize: size,
    allocatedClusters: blocks,
  });
  return vpcImage(file, state, 0, backing, options.log);
}

function openFixed(file: HostFile, layout: Layout, { log, readOnly }: OpenOptions): FixedImage {
  let { footer, size } = layout;
  const { path } = file;
  if (readOnly) {
    sayFaults(file, layout, log);
    if (layout.cutShort !== null) log(`${path}: a resize was cut short; the next read-write mount finishes it`);
    return new FixedImage(file, createFixedState(size, footer.bytes, footer.uuid), log);
  }
  refuseFaults(file, layout);
  if (layout.faults.length > 0) ({ footer, size } = mendFaults(file, layout, layout.trailerOffset, log));
  let { bytes } = footer;
  if (layout.cutShort !== null) {
    bytes = finishResize(file, bytes, footer.size, layout.cutShort);
    log(`${path}: a resize was cut short, and is finished: the disk has ${size} bytes`);
  }
  return new FixedImage(file, createFixedState(size, bytes, footer.uuid), log);
}

function sayFaults({ path }: HostFile, { faults }: Layout, log: (sentence: string) => void): void {
  for (const fault of faults)
    log(`${path}: ${FAULTS[fault].what}; it is read as it is, imgfuse check -r all repairs it`);
}

function refuseFaults({ path }: HostFile, { faults }: Layout): void {
  const worst = faults.find((fault) => !HARMLESS.includes(fault));
  if (worst === undefined) return;
  throw new ImgfuseError(
    'corrupt',
    `${path}: ${FAULTS[worst].what}; it is not opened for writing. Repair a copy with imgfuse check -r all, or mount with -o ro`,
    { path },
  );
}

/** Repairs what can do no harm, and says so. @returns what the image is then */
function mendFaults<Kind extends Layout>(file: HostFile, layout: Kind, usedEnd: number, log: OpenOptions['log']): Kind {
  if (layout.faults.length === 0) return layout;
  repairLayout(file, layout, usedEnd);
  for (const fault of layout.faults) log(`${file.path}: ${FAULTS[fault].what}: ${FAULTS[fault].repair}`);
  return readLayout(file) as Kind;
}

function walkOrRefuse(file: HostFile, layout: SparseLayout, options: OpenOptions): TableCheck {
  let first = '';
  const log = (sentence: string): void => {
    if (first === '') first = sentence.replace(/^ERROR /, '');
  };
  const steps = progressOf(`checking ${file.path}`, options.progress);
  const found = checkTable(file, layout, { repair: 'none', log, ...steps });
  const { corruptions } = found.report;
  if (corruptions === 0) return found;
  const overlaps = found.overlaps > 0 ? `, ${found.overlaps} of them blocks that overlap` : '';
  throw new ImgfuseError(
    'corrupt',
    `${file.path}: its table has ${plural(corruptions, 'error')}${overlaps}, the first: ${first}; it is not opened for writing. See them with ` +
      `imgfuse check ${file.path}, ${cureOf(found.cutOff, found.overlaps === corruptions)}`,
    { path: file.path },
  );
}

/** End of metadata, and of blocks of other programs that lie off the grid. */
function offGridEnd(geometry: Geometry, { metadata, starts }: TableCheck): number {
  let end = Math.max(...metadata.map((stretch) => stretch.end));
  for (const sector of starts) {
    const start = hostOffset(sector * SECTOR_BYTES);
    if (!geometry.isOnGrid(start)) end = Math.max(end, start + geometry.blockBytes);
  }
  return end;
}

/** Places on the grid between what is in use: nothing refers to them, but that need not be durable, so they take two flushes. */
function reclaimGaps(state: VpcState, geometry: Geometry, found: TableCheck): void {
  const free = new FreeClusters(state.free);
  let room = MAX_RECLAIMED_BLOCKS;
  for (const { start, end } of gapsIn(found, geometry.blockBytes)) {
    const first = geometry.placeOf(geometry.nextOnGrid(start));
    const last = Math.min(geometry.lastPlaceBefore(end), MAX_TRACKED_CLUSTERS - 1, first + room - 1);
    if (last < first) continue;
    free.markFreed(first, last - first + 1);
    room -= last - first + 1;
  }
}

/** The parent of a differencing image. */
function openParent(file: HostFile, layout: SparseLayout, { log, openBacking }: OpenOptions): ReadableImage | null {
  const reference = referenceOf(file, layout);
  if (reference === null) return null;
  const backing = openBacking(reference);
  const { parentTimestamp } = layout.header;
  const modifiedMs = backing.file.modifiedMs();
  if (parentTimestamp !== 0 && modifiedMs !== null && timestampOf(modifiedMs) !== parentTimestamp) {
    log(
      `${backing.file.path} was changed, or copied, after ${file.path} was made on it; if somebody wrote to it, this disk is a mixture ` +
        'of two',
    );
  }
  return backing;
}

function referenceOf(file: HostFile, { footer, header }: SparseLayout): BackingReference | null {
  if (footer.type !== DIFFERENCING) return null;
  const [name, ...otherNames] = parentNames(file, header.locators, header.parentName);
  const { parentUuid } = header;
  // Xen's sign for a raw parent; nothing tells a wrong one, so no second name is tried
  if (parentUuid === NO_UUID) return { name: name!, format: 'raw' };
  return { name: name!, otherNames, format: 'vpc', identity: { word: 'UUID', values: [parentUuid] } };
}

/** Reads and checks the footers and the header. */
export function inspectVpc(file: HostFile, log: OpenOptions['log'] = () => undefined): ImageDetails {
  const layout = readLayout(file);
  sayFaults(file, layout, log);
  return detailsOf(file, layout);
}

function detailsOf(file: HostFile, layout: Layout): ImageDetails {
  const { footer, header, size } = layout;
  const backing = isSparse(layout) ? referenceOf(file, layout) : null;
  return {
    format: 'vpc',
    virtualSize: size,
    clusterSize: header?.blockSize ?? null,
    // the format has no flag for it
    dirty: layout.faults.length > 0 || layout.cutShort !== null,
    identity: footer.uuid,
    ...(backing === null ? {} : { backing }),
    specific: {},
  };
}

export function attachVpc(file: HostFile, shared: SharedImage, { backing, log, slot }: AttachOptions): WritableImage {
  const state = shared.state as FixedState | VpcState;
  if ('kind' in state) return new FixedImage(file, state, log);
  return vpcImage(file, state, slot, backing, log);
}
