// Opening a QED image. One that was not closed clean is checked and repaired before the first request; a read-write open walks the
// tables, so that no write starts from an entry that is not true, unless it is known that nothing has changed since the image was
// closed clean.

import { hostCluster, roundUp } from '../../bytes/offsets.ts';
import type { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { plural } from '../../errors/plural.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type CheckReport, limitedLog } from '../check-report.ts';
import { countOf } from '../closed-facts.ts';
import { type ImageDetails, type OpenOptions, progressOf, type WritableImage } from '../image-format.ts';
import { FreeClusters, MAX_TRACKED_CLUSTERS } from '../mapped/free-clusters.ts';
import { clustersOnHost, possibleClusters } from '../mapped/host-clusters.ts';
import { sayWhatIsCut } from '../truncated-copy.ts';
import { dataIn } from './allocated-clusters.ts';
import { checkTables, type QedCheck } from './check.ts';
import {
  AUTOCLEAR_OFFSET,
  describeHeader,
  FEATURES_OFFSET,
  isAutoclearSet,
  QED_F_BACKING_FORMAT_NO_PROBE,
  QED_F_NEED_CHECK,
  type QedHeader,
  readHeader,
  writeHeaderField,
} from './header.ts';
import { qedImage } from './image.ts';
import { createQedState, type QedState } from './state.ts';

/** Leaks between clusters in use that one open takes back; a hostile file may claim any number. 1 TiB of 64 KiB clusters. */
const MAX_RECLAIMED_CLUSTERS = 2 ** 24;

/** @param reclaim clusters without a reference are freed even if the image is clean */
export function openQed(file: HostFile, options: OpenOptions, reclaim: boolean): WritableImage {
  const header = readHeader(file, { mayBeCut: options.readOnly });
  if (options.readOnly) return openReadOnly(file, header, options);
  if (file.isDevice) {
    const message = `${file.path} is a block device, and a QED image grows with its file; mount it with -o ro, or copy it to a file`;
    throw new ImgfuseError('unsupported', message, { path: file.path });
  }
  const dirty = isMarkedDirty(header);
  const allocated = reclaim || dirty ? null : allocatedWhenClosed(file, header, options);
  if (allocated !== null) return openClosedClean(file, header, options, allocated);
  // the image's own tables come first: a damaged one is refused before its backing chain is looked for
  const found = walkOrRefuse(file, header, options, dirty);
  const backing = header.backingName === null ? null : options.openBacking(backingReference(header));
  // an open that fails has changed no byte, so a repair waits until the chain below is open
  const walk = repairIfUnclean(file, header, options, dirty, found);
  if (dirty || reclaim) cutLeakedTail(file, header, walk.report.imageEndOffset);
  let fileLength = file.size();
  const missing = fileLength % header.clusterSize;
  if (missing !== 0) {
    // the last cluster of a file that was cut: QEMU fails its reads and would overwrite it
    fileLength += header.clusterSize - missing;
    file.truncate(fileLength);
  }
  const reclaims = (dirty || reclaim) && walk.report.leaks > 0;
  if (reclaims && !dirty) {
    writeHeaderField(file, FEATURES_OFFSET, header.features | QED_F_NEED_CHECK);
    file.sync();
  }
  const { allocatedClusters } = walk.report;
  const state = createQedState(header, {
    fileLength,
    ...options,
    virtualSize: header.imageSize,
    allocatedClusters,
    isDirty: dirty || reclaims,
  });
  if (reclaims) reclaimLeaks(state, walk.used, fileLength / header.clusterSize);
  if (isAutoclearSet(header)) {
    writeHeaderField(file, AUTOCLEAR_OFFSET, 0);
    file.sync();
  }
  return qedImage(file, state, 0, backing, options.log);
}

/** Reads and checks the header. */
export function inspectQed(file: HostFile, log: OpenOptions['log'] = () => undefined): ImageDetails {
  const header = readHeader(file, { mayBeCut: true });
  sayCutL1(file, header, { log });
  return describeHeader(header, header.imageSize, isMarkedDirty(header));
}

/** How many clusters of the disk had data when the image was closed clean; null if it is not that image, or not known. */
function allocatedWhenClosed(file: HostFile, header: QedHeader, { closedFacts }: OpenOptions): number | null {
  if (closedFacts === undefined || isAutoclearSet(header) || file.size() % header.clusterSize !== 0) return null;
  return countOf(closedFacts, 'allocatedClusters', Math.ceil(header.imageSize / header.clusterSize));
}

/** An image that imgfuse has closed clean and nothing has changed since: what a walk would find is known. */
function openClosedClean(
  file: HostFile,
  header: QedHeader,
  options: OpenOptions,
  allocatedClusters: number,
): WritableImage {
  const backing = header.backingName === null ? null : options.openBacking(backingReference(header));
  const place = { fileLength: file.size(), virtualSize: header.imageSize };
  const state = createQedState(header, { allocatedClusters, ...options, ...place, isDirty: false });
  return qedImage(file, state, 0, backing, options.log);
}

/** Checks nothing but the header: each entry is checked by the read that meets it. */
function openReadOnly(file: HostFile, header: QedHeader, options: OpenOptions): WritableImage {
  const dirty = isMarkedDirty(header);
  const backing = header.backingName === null ? null : options.openBacking(backingReference(header));
  if (dirty) options.log(`${file.path} was not closed clean; it is read as it is, because it is opened read-only`);
  const isCut = sayCutL1(file, header, options);
  const fileLength = roundUp(file.size(), header.clusterSize);
  const { clusterSize, imageSize } = header;
  const found = options.isLazy === true ? null : dataIn(file, header);
  if (found !== null && !isCut) sayWhatIsCut(file, found, { bytes: imageSize, clusterSize }, options.log);
  const estimate = options.isLazy === true ? clustersOnHost : possibleClusters;
  const allocatedClusters = found?.clusters ?? estimate(file, imageSize, clusterSize);
  const state = createQedState(header, {
    fileLength,
    ...options,
    virtualSize: header.imageSize,
    allocatedClusters,
    isDirty: dirty,
  });
  return qedImage(file, state, 0, backing, options.log);
}

/**
 * The end of a table that is missing reads as zeros, which is not what the guest wrote: whoever reads it has to know.
 * @returns whether some is missing
 */
function sayCutL1(file: HostFile, header: QedHeader, { log }: Pick<OpenOptions, 'log'>): boolean {
  const end = header.l1TableOffset + header.tableSizeClusters * header.clusterSize;
  const size = file.size();
  if (size >= end) return false;
  log(
    `${file.path} is truncated: its ${size} bytes end before its L1 table does, at ${end}; what that mapped reads as zeros`,
  );
  return true;
}

/** Checks all tables and writes nothing. Throws what cannot be repaired safely. */
function walkOrRefuse(file: HostFile, header: QedHeader, options: OpenOptions, dirty: boolean): QedCheck {
  const finding = new FirstFinding();
  const steps = progressOf(`checking ${file.path}`, options.progress);
  const found = checkTables(file, header, { repair: 'none', log: finding.note, ...steps });
  const { report, doubleReferences } = found;
  if (isSound(report) || (dirty && doubleReferences === 0)) return found;
  const doubles = doubleReferences > 0 ? `, ${doubleReferences} of them clusters used twice` : '';
  throw new ImgfuseError(
    'corrupt',
    `${file.path}: its tables have ${plural(errorsIn(report), 'error')}${doubles}, the first: ${finding.sentence}; ` +
      `it is not opened for writing. See them with imgfuse check ${file.path}, repair a copy with imgfuse check -r all, ` +
      'or mount with -o ro',
    { path: file.path },
  );
}

/** Repairs the tables of an image that was not closed clean, and says so. @returns what they are then */
function repairIfUnclean(
  file: HostFile,
  header: QedHeader,
  options: OpenOptions,
  dirty: boolean,
  found: QedCheck,
): QedCheck {
  if (!dirty) return found;
  const { report } = found;
  if (isSound(report)) {
    options.log(
      `${file.path} was not closed clean; checked: no errors, ${report.leaks} leaked clusters will be reclaimed`,
    );
    return found;
  }
  options.log(`${file.path} was not closed clean; repairing ${plural(errorsIn(report), 'error')}`);
  const repairing = progressOf(`repairing ${file.path}`, options.progress);
  checkTables(file, header, { repair: 'all', log: limitedLog(options.log), ...repairing });
  // the tables are read back: a host that answers a write and does not do it must not make a damaged image look clean (R7)
  const finding = new FirstFinding();
  const again = progressOf(`checking ${file.path} after its repair`, options.progress);
  const repaired = checkTables(file, header, { repair: 'none', log: finding.note, ...again });
  if (isSound(repaired.report)) return repaired;
  throw new ImgfuseError(
    'corrupt',
    `${file.path} was repaired, and its tables still have ${plural(errorsIn(repaired.report), 'error')}, the first: ${finding.sentence}; ` +
      'the host does not keep what is written to it. The image stays marked as not clean: copy it to another disk, and repair the copy ' +
      'with imgfuse check -r all',
    { path: file.path },
  );
}

/** The first sentence of a check, which a refusal quotes. */
class FirstFinding {
  sentence = '';
  readonly note = (sentence: string): void => {
    if (this.sentence === '') this.sentence = sentence.replace(/^ERROR /, '');
  };
}

export function errorsIn({ corruptions, checkErrors }: CheckReport): number {
  return corruptions + checkErrors;
}

function isSound({ corruptions, checkErrors }: CheckReport): boolean {
  return corruptions === 0 && checkErrors === 0;
}

/** Frees the clusters between those in use; NEED_CHECK is set. */
function reclaimLeaks(state: QedState, used: SparseBitmap, clusters: number): void {
  const free = new FreeClusters(state.free);
  let room = MAX_RECLAIMED_CLUSTERS;
  for (const gap of used.gaps(Math.min(clusters, MAX_TRACKED_CLUSTERS))) {
    const count = Math.min(gap.end - gap.start, room);
    free.markFreed(hostCluster(gap.start), count);
    room -= count;
    if (room === 0) return;
  }
}

/**
 * What a crash left behind the last cluster in use, above all the space that was taken ahead. That nothing refers to it may
 * not be durable yet: the process that removed an entry may have ended before its fdatasync (R5). And the cut is durable
 * before anything is allocated there, because new clusters are taken to read as zeros.
 */
function cutLeakedTail(file: HostFile, header: QedHeader, end: number): void {
  const length = roundUp(end, header.clusterSize);
  if (file.size() <= length) return;
  file.sync();
  file.truncate(length);
  file.sync();
}

function backingReference(header: QedHeader): { name: string; format?: string } {
  const noProbe = (header.features & QED_F_BACKING_FORMAT_NO_PROBE) !== 0;
  return { name: header.backingName!, ...(noProbe ? { format: 'raw' } : {}) };
}

export function isMarkedDirty(header: QedHeader): boolean {
  return (header.features & QED_F_NEED_CHECK) !== 0;
}
