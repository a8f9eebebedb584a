// Opening a qcow image. It has no mark that says whether it was closed clean, so a read-write open walks the tables, unless it is
// known that nothing has changed since imgfuse closed it: no write starts from an entry that is not true, and every plain cluster
// has one owner. What nobody refers to is free then: leaks of a crash, and the places of compressed data that was overwritten.

import { hostCluster } from '../../bytes/offsets.ts';
import type { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import { legacyAesKey } from '../../codec/aes-legacy.ts';
import { type VolumeKey, wipe } from '../../codec/encryption.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { plural } from '../../errors/plural.ts';
import type { HostFile } from '../../host/host-file.ts';
import { countOf } from '../closed-facts.ts';
import { type OpenOptions, progressOf, type WritableImage } from '../image-format.ts';
import { FreeClusters, MAX_TRACKED_CLUSTERS } from '../mapped/free-clusters.ts';
import { clustersOnHost, possibleClusters } from '../mapped/host-clusters.ts';
import { sayWhatIsCut } from '../truncated-copy.ts';
import { dataIn } from './allocated-clusters.ts';
import { checkTables, type QcowCheck } from './check.ts';
import { Geometry } from './geometry.ts';
import { type QcowHeader, readHeader } from './header.ts';
import { qcowImage } from './image.ts';
import { createQcowState, type QcowState } from './state.ts';
import { forEachUnused } from './unused.ts';

/** Leaks between clusters in use that one open takes back; a hostile file may claim any number. */
const MAX_RECLAIMED_CLUSTERS = 2 ** 24;

export function openQcow(file: HostFile, options: OpenOptions): WritableImage {
  const header = readHeader(file);
  const geometry = new Geometry(header);
  if (!options.readOnly && file.isDevice) {
    const message = `${file.path} is a block device, and a qcow image grows with its file; mount it with -o ro, or copy it to a file`;
    throw new ImgfuseError('unsupported', message, { path: file.path });
  }
  const known = options.readOnly ? null : allocatedWhenClosed(header, geometry, options);
  // the image's own tables come first: a damaged one is refused before its backing chain is looked for
  const walk = options.readOnly || known !== null ? null : walkOrRefuse(file, header, options);
  const volumeKey = unlock(file, header, options);
  const backing = header.backingName === null ? null : options.openBacking({ name: header.backingName });
  const allocatedClusters = known ?? walk?.report.allocatedClusters ?? countOnHost(file, header, options);
  const place = { virtualSize: header.size, allocatedClusters, volumeKey };
  if (walk !== null) cutLeakedTail(file, walk, options.log);
  const state = createQcowState(header, { fileLength: file.size(), ...options, ...place });
  if (walk !== null) reclaimLeaks(state, file, walk.used, geometry.clusterSize);
  return qcowImage(file, state, 0, backing, options.log);
}

/** How many clusters of the disk had data when the image was closed clean; null if that is not known. */
function allocatedWhenClosed(header: QcowHeader, geometry: Geometry, { closedFacts }: OpenOptions): number | null {
  if (closedFacts === undefined) return null;
  return countOf(closedFacts, 'allocatedClusters', geometry.clustersFor(header.size));
}

/** Of an image that is only read: counted, or estimated. */
function countOnHost(file: HostFile, header: QcowHeader, { isLazy, log }: OpenOptions): number {
  const clusterSize = 2 ** header.clusterBits;
  if (isLazy === true) return clustersOnHost(file, header.size, clusterSize);
  const found = dataIn(file, header);
  if (found === null) return possibleClusters(file, header.size, clusterSize);
  sayWhatIsCut(file, found, { bytes: header.size, clusterSize }, log);
  return found.clusters;
}

/** The key of the guest's data; null for an image that is not encrypted. */
function unlock(file: HostFile, { isEncrypted }: QcowHeader, { before, password }: OpenOptions): VolumeKey | null {
  if (!isEncrypted) return null;
  const known = (before as QcowState | undefined)?.volumeKey ?? null;
  if (known !== null) return known;
  if (password === undefined) {
    throw new ImgfuseError('permission', `${file.path} is encrypted and no password is given`, { path: file.path });
  }
  const secret = password(file.path);
  try {
    return legacyAesKey(secret);
  } finally {
    wipe(secret);
  }
}

/** Checks all tables and writes nothing. Throws what cannot be written to safely. */
function walkOrRefuse(file: HostFile, header: QcowHeader, options: OpenOptions): QcowCheck {
  const { path } = file;
  let first = '';
  const log = (sentence: string): void => {
    if (first === '' && sentence.startsWith('ERROR ')) first = sentence.slice('ERROR '.length);
  };
  const steps = progressOf(`checking ${path}`, options.progress);
  const found = checkTables(file, header, { repair: 'none', log, ...steps });
  const { doubleReferences, report, unaligned } = found;
  const errors = report.corruptions + report.checkErrors;
  if (errors > 0) {
    const doubles = doubleReferences > 0 ? `, ${doubleReferences} of them clusters used twice` : '';
    throw new ImgfuseError(
      'corrupt',
      `${path}: its tables have ${plural(errors, 'error')}${doubles}, the first: ${first}; it is not opened for writing. See them with ` +
        `imgfuse check ${path}, repair a copy with imgfuse check -r all, or mount with -o ro`,
      { path },
    );
  }
  if (unaligned === 0) return found;
  throw new ImgfuseError(
    'unsupported',
    `${path}: ${unaligned} of its clusters and tables do not begin at a multiple of ${2 ** header.clusterBits} bytes, and such ` +
      'an image is only read; mount it with -o ro, or with -o overlay=FILE, which takes the changes',
    { path },
  );
}

/**
 * What a crash left behind the last cluster in use, above all the space that was taken ahead. That nothing refers to it may not be
 * durable yet: the process that removed an entry may have ended before its fdatasync (R5).
 */
function cutLeakedTail(file: HostFile, { report }: QcowCheck, log: (sentence: string) => void): void {
  if (report.leaks > 0) {
    log(`${file.path} was not closed clean, or had data replaced; ${report.leaks} leaked clusters will be reclaimed`);
  }
  if (file.size() <= report.imageEndOffset) return;
  file.sync();
  file.truncate(report.imageEndOffset);
  file.sync();
}

/**
 * The clusters between those in use are free: at once where they read as zeros, else when they do. That nothing refers to them need not
 * be durable yet (R5).
 */
function reclaimLeaks(state: QcowState, file: HostFile, used: SparseBitmap, clusterSize: number): void {
  const free = new FreeClusters(state.free);
  let room = MAX_RECLAIMED_CLUSTERS;
  let isDurable = false;
  const end = Math.min(Math.ceil(file.size() / clusterSize), MAX_TRACKED_CLUSTERS);
  forEachUnused(file, used, clusterSize, end, (start, count, isZero) => {
    const part = Math.min(count, room);
    room -= part;
    if (part === 0) return;
    if (isZero && !isDurable) {
      file.sync();
      isDurable = true;
    }
    if (isZero) free.markFree(hostCluster(start), part);
    else free.markFreed(hostCluster(start), part);
  });
}
