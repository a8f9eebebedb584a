// Opening a qcow2 image: what this version cannot serve is refused by name before a byte is changed, then the shared state is
// filled from the header, the tables and, for writing, from the reference counts, which say what is free.

import { combine } from '../../bytes/endian.ts';
import { hostOffset, roundUp } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { CheckReport } from '../check-report.ts';
import { FreeClusters } from '../free-clusters.ts';
import type { Image, OpenOptions } from '../image-format.ts';
import { legacyAesKey } from './aes-legacy.ts';
import { checkReferences } from './check.ts';
import { type VolumeKey, wipe } from './encryption.ts';
import { Geometry } from './geometry.ts';
import {
  autoclearWhenWritten,
  QCOW_CRYPT_AES,
  QCOW_CRYPT_NONE,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DIRTY,
  type Qcow2Header,
  withoutBits,
  writeAutoclearFeatures,
  writeIncompatibleFeatures,
} from './header.ts';
import { Qcow2Image } from './image.ts';
import { unlockLuks } from './luks.ts';
import { readCounter } from './refcount.ts';
import {
  ALLOCATED_CLUSTERS,
  createQcow2State,
  FILE_END,
  L1_ENTRIES,
  L1_OFFSET,
  NEVER_USED,
  type Qcow2State,
  REFCOUNT_TABLE_ENTRIES,
  REFCOUNT_TABLE_OFFSET,
  VIRTUAL_SIZE,
} from './state.ts';
import { isCompressed, offsetOf } from './table.ts';

/** @param specific facts for info and status, with qemu-img's keys */
export function openQcow2(
  file: HostFile,
  header: Qcow2Header,
  specific: Readonly<Record<string, unknown>>,
  options: OpenOptions,
): Image {
  refuseWhatIsMissing(file, header);
  const volumeKey = unlock(file, header, options);
  const backing =
    header.backingName === null
      ? null
      : options.openBacking({
          name: header.backingName,
          ...(header.backingFormat === null ? {} : { format: header.backingFormat }),
        });
  const geometry = new Geometry(header.clusterBits, header.refcountOrder, header.extendedL2);
  const fileEnd = roundUp(file.size(), geometry.clusterSize);
  const state = createQcow2State(
    {
      version: header.version,
      clusterBits: header.clusterBits,
      refcountOrder: header.refcountOrder,
      extendedL2: header.extendedL2,
      compressionType: header.compressionType,
      cryptMethod: header.cryptMethod,
      snapshotCount: header.snapshotCount,
      backingName: header.backingName,
      backingFormat: header.backingFormat,
      specific,
    },
    { ...options, volumeKey, fileLength: fileEnd },
  );
  const numbers = new Float64Array(state.numbers);
  numbers[VIRTUAL_SIZE] = header.size;
  numbers[L1_OFFSET] = header.l1TableOffset;
  numbers[L1_ENTRIES] = header.l1Size;
  numbers[REFCOUNT_TABLE_OFFSET] = header.refcountTableOffset;
  numbers[REFCOUNT_TABLE_ENTRIES] = (header.refcountTableClusters * geometry.clusterSize) / 8;
  numbers[FILE_END] = fileEnd;
  numbers[NEVER_USED] = fileEnd;
  numbers[ALLOCATED_CLUSTERS] = countAllocated(file, header, geometry);
  if (!options.readOnly) {
    checkBeforeWriting(file, header, options.log);
    findFreeClusters(file, header, geometry, state, fileEnd / geometry.clusterSize);
    clearAutoclear(file, header);
  }
  return new Qcow2Image(file, state, 0, backing, options.log);
}

function refuseWhatIsMissing(file: HostFile, header: Qcow2Header): void {
  const missing = [...(header.hasExternalData ? ['an external data file'] : [])];
  if (missing.length > 0) {
    throw new ImgfuseError(
      'unsupported',
      `${file.path} uses ${missing.join(' and ')}, which this version does not open; convert it with qemu-img`,
      {
        path: file.path,
      },
    );
  }
}

/** The key of the guest's data; null for an image that is not encrypted. */
function unlock(file: HostFile, header: Qcow2Header, { password }: OpenOptions): VolumeKey | null {
  if (header.cryptMethod === QCOW_CRYPT_NONE) return null;
  if (password === undefined) {
    throw new ImgfuseError('permission', `${file.path} is encrypted and no password is given`, { path: file.path });
  }
  const secret = password(file.path);
  try {
    if (header.cryptMethod === QCOW_CRYPT_AES) return legacyAesKey(secret);
    return unlockLuks(file, header.cryptoHeader!, secret);
  } finally {
    wipe(secret);
  }
}

/** Every corruption that was found is repaired; leaks may be left. */
export function isSound(report: CheckReport): boolean {
  return report.corruptions === report.corruptionsFixed && report.checkErrors === 0;
}

/** Clears the dirty and the corrupt bit, after everything that was repaired is durable. */
export function clearMarks(file: HostFile, header: Qcow2Header): void {
  if (header.version !== 3 || !(header.isDirty || header.isCorrupt)) return;
  file.sync();
  writeIncompatibleFeatures(
    file,
    header,
    withoutBits(header.incompatible, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT),
  );
  file.sync();
}

/**
 * No write starts from tables or counters that are not true: they are checked before every read-write open. An image that
 * was not closed clean (lazy refcounts) is repaired; another one in which something is wrong is refused.
 */
function checkBeforeWriting(file: HostFile, header: Qcow2Header, log: (sentence: string) => void): void {
  let first = '';
  const found = checkReferences(file, header, {
    repair: 'none',
    log: (sentence) => {
      if (first === '' && sentence.startsWith('ERROR ')) first = sentence.slice('ERROR '.length);
    },
  });
  if (header.isDirty) {
    log(
      `${file.path} was not closed clean; checked: ${found.corruptions} corruptions, ${found.leaks} leaked clusters; repairing`,
    );
    if (isSound(checkReferences(file, header, { repair: 'all', log }))) {
      clearMarks(file, header);
      return;
    }
  } else if (found.corruptions === 0) {
    if (found.leaks > 0) log(`${file.path} has ${found.leaks} leaked clusters; imgfuse check -r leaks gives them back`);
    return;
  }
  throw new ImgfuseError(
    'corrupt',
    `${file.path} has ${found.corruptions} corruptions and is not opened for writing: ${first}. ` +
      `See them with imgfuse check ${file.path}, repair a copy with imgfuse check -r all, or mount with -o ro`,
    { path: file.path },
  );
}

/** Bitmaps are not kept up to date and unknown bits speak of what we do not maintain: they go before the first write. */
function clearAutoclear(file: HostFile, header: Qcow2Header): void {
  if (header.version !== 3) return;
  const kept = autoclearWhenWritten(header.autoclear);
  if (kept[0] === header.autoclear[0] && kept[1] === header.autoclear[1]) return;
  writeAutoclearFeatures(file, header, kept);
  file.sync();
}

/** Data clusters of the active layer, compressed ones included. */
function countAllocated(file: HostFile, header: Qcow2Header, geometry: Geometry): number {
  let count = 0;
  const l1 = new Uint8Array(header.l1Size * 8);
  file.read(l1, 0, l1.length, hostOffset(header.l1TableOffset));
  const l1View = new DataView(l1.buffer);
  const l2 = new Uint8Array(geometry.clusterSize);
  const l2View = new DataView(l2.buffer);
  for (let at = 0; at < l1.length; at += 8) {
    const table = offsetOf(l1View.getUint32(at), l1View.getUint32(at + 4));
    if (!(table > 0 && table + geometry.clusterSize <= file.size())) continue;
    file.read(l2, 0, l2.length, hostOffset(table));
    for (let entry = 0; entry < l2.length; entry += geometry.l2EntryBytes) {
      const high = l2View.getUint32(entry);
      const low = l2View.getUint32(entry + 4);
      if (isCompressed(high) || (offsetOf(high, low) !== 0 && (header.extendedL2 || (low & 1) === 0))) count++;
    }
  }
  return count;
}

/** Marks every cluster below the end of the file whose counter is 0, and finds the end of what is in use. */
function findFreeClusters(
  file: HostFile,
  header: Qcow2Header,
  geometry: Geometry,
  state: Qcow2State,
  clusters: number,
): void {
  const { clusterSize, refcountBits, refcountsPerBlock } = geometry;
  const free = new FreeClusters(state.free);
  const numbers = new Float64Array(state.numbers);
  const table = new Uint8Array(header.refcountTableClusters * clusterSize);
  file.read(table, 0, table.length, hostOffset(header.refcountTableOffset));
  const view = new DataView(table.buffer);
  const block = new Uint8Array(clusterSize);
  let start = 0;
  let used = 0;
  // beyond what the table counts nothing is in use
  for (let index = 0; index * 8 < table.length && index * refcountsPerBlock < clusters; index++) {
    const offset = combine(view.getUint32(index * 8), view.getUint32(index * 8 + 4));
    if (!(offset > 0)) {
      // clusters without counters are not handed out again
      start = (index + 1) * refcountsPerBlock;
      continue;
    }
    file.read(block, 0, clusterSize, hostOffset(offset));
    const first = index * refcountsPerBlock;
    const end = Math.min(clusters, first + refcountsPerBlock);
    for (let cluster = first; cluster < end; cluster++) {
      const inBlock = cluster - first;
      if (readCounter(block, Math.floor((inBlock * refcountBits) / 8), inBlock, refcountBits) === 0) continue;
      if (cluster > start) free.markFree(start, cluster - start);
      start = cluster + 1;
      used = cluster + 1;
    }
  }
  numbers[FILE_END] = used * clusterSize;
}
