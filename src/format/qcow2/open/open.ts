// Opening a qcow2 image: what this version cannot serve is refused by name before a byte is changed, then the shared state is
// filled from the header, the tables and, for writing, from the reference counts, which say what is free.

import { roundUp } from '../../../bytes/offsets.ts';
import { legacyAesKey } from '../../../codec/aes-legacy.ts';
import { type VolumeKey, wipe } from '../../../codec/encryption.ts';
import { unlockLuks } from '../../../codec/luks.ts';
import { readLuksHeader } from '../../../codec/luks-header.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { OpenOptions, WritableImage } from '../../image-format.ts';
import { clustersOnHost, possibleClusters } from '../../mapped/host-clusters.ts';
import { sayWhatIsCut } from '../../truncated-copy.ts';
import { dataIn } from '../check/count-allocated.ts';
import { type Verified, verifyBeforeWriting } from '../check/verify.ts';
import { countInStretches, createUnreadFreeState } from '../counters/unread-free.ts';
import { Geometry, REFCOUNT_TABLE_ENTRY_BYTES } from '../geometry.ts';
import {
  autoclearWhenWritten,
  QCOW_CRYPT_AES,
  QCOW_CRYPT_LUKS,
  QCOW_CRYPT_NONE,
  QCOW_MAX_REFTABLE_SIZE,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DIRTY,
  type Qcow2Header,
  writeAutoclearFeatures,
} from '../header/header.ts';
import { qcow2Image } from '../image.ts';
import { createMetadataClustersState } from '../metadata-clusters.ts';
import { readableSnapshots } from '../snapshots/readable-snapshots.ts';
import { createQcow2State, type Qcow2State, type TablePlace } from '../state.ts';
import { knownImage } from './closed-clean.ts';

/** @param specific facts for info and status, with qemu-img's keys */
export function openQcow2(
  file: HostFile,
  found: Qcow2Header,
  specific: Readonly<Record<string, unknown>>,
  options: OpenOptions,
): WritableImage {
  if (options.lazyRefcounts === true && !options.readOnly) assertHasDirtyBit(file, found);
  const volumeKey = unlock(file, found, options);
  const backing =
    found.backingName === null
      ? null
      : options.openBacking({
          name: found.backingName,
          ...(found.backingFormat === null ? {} : { format: found.backingFormat }),
        });
  const dataFile = openDataFile(file, found, options);
  const known = knownImage(file, found, options.closedFacts);
  const verified = options.readOnly || known !== null ? null : verifyBeforeWriting(file, found, options);
  const header = verified?.header ?? found;
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
      incompatible: header.incompatible,
      lazyRefcounts: header.lazyRefcounts || options.lazyRefcounts === true,
      snapshotCount: header.snapshotCount,
      hasDataFile: dataFile !== null,
      dataFileRaw: header.dataFileRaw,
      backingName: header.backingName,
      backingFormat: header.backingFormat,
      specific,
    },
    {
      volumeKey,
      ...options,
      metadata: verified?.metadata ?? known?.metadata ?? createMetadataClustersState(0),
      hasLeaks: verified !== null && (hasLeaks(verified) || losesAutoclear(header)),
      unreadFree: createUnreadFreeState(
        fileEnd / geometry.clusterSize,
        verified === null ? (known?.free ?? []) : freeIn(verified),
      ),
      snapshots: options.wantsSnapshots === true ? readableSnapshots(file, header, options.log) : [],
      fileLength: fileEnd,
      virtualSize: header.size,
      headerBits: options.readOnly ? header.incompatible[0] & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT) : 0,
      l1Table: { offset: header.l1TableOffset, entries: header.l1Size },
      refcountTable: refcountTable(header, fileEnd),
      usedEnd: verified === null ? fileEnd : verified.check.usedEnd * geometry.clusterSize,
      allocatedClusters:
        known?.allocatedClusters ??
        verified?.check.report.allocatedClusters ??
        allocatedWithoutCheck(file, dataFile, header, geometry, options),
    },
  );
  if (!options.readOnly) clearAutoclear(file, header);
  return qcow2Image({ file, backing, dataFile }, state, 0, options.log);
}

/** Of an image that is only read: counted, or estimated. */
function allocatedWithoutCheck(
  file: HostFile,
  dataFile: HostFile | null,
  header: Qcow2Header,
  geometry: Geometry,
  { isLazy, log }: OpenOptions,
): number {
  const { clusterSize, size } = header;
  const holder = dataFile ?? file;
  if (isLazy === true) return clustersOnHost(holder, size, clusterSize);
  const found = dataIn(file, header, geometry);
  if (found === null) return possibleClusters(holder, size, clusterSize);
  sayWhatIsCut(file, found, { bytes: size, clusterSize }, log);
  return found.clusters;
}

/** None if the header damages it: it protects nothing then, and only a read-only open gets this far. */
function refcountTable(header: Qcow2Header, fileEnd: number): TablePlace {
  const { clusterSize, refcountTableClusters, refcountTableOffset: offset } = header;
  const bytes = refcountTableClusters * clusterSize;
  const isSound =
    bytes <= QCOW_MAX_REFTABLE_SIZE && offset > 0 && offset % clusterSize === 0 && offset + bytes <= fileEnd;
  return isSound ? { offset, entries: bytes / REFCOUNT_TABLE_ENTRY_BYTES } : { offset: 0, entries: 0 };
}

/** The file that holds the guest's data; null: the image file does. */
function openDataFile(file: HostFile, header: Qcow2Header, { openExtent, readOnly }: OpenOptions): HostFile | null {
  if (!header.hasExternalData) return null;
  if (header.dataFileName === null || openExtent === undefined) {
    throw new ImgfuseError(
      'unsupported',
      `${file.path} keeps its data in another file and does not name it; store the name with qemu-img amend -o data_file=NAME`,
      { path: file.path },
    );
  }
  if (header.snapshotCount > 0 && !readOnly) {
    throw new ImgfuseError(
      'unsupported',
      `${file.path} has internal snapshots and an external data file, which cannot keep them; mount it with -o ro`,
      { path: file.path },
    );
  }
  return openExtent(header.dataFileName, 'data', readOnly ? 'read' : 'write');
}

function assertHasDirtyBit(file: HostFile, { version }: Qcow2Header): void {
  if (version === 3) return;
  throw new ImgfuseError(
    'unsupported',
    `${file.path} is a version 2 image, which has no dirty bit, so its refcounts cannot be lazy; mount it without ` +
      '-o lazy_refcounts, or make it version 3 with qemu-img amend -o compat=1.1',
    { path: file.path },
  );
}

/** The key of the guest's data; null for an image that is not encrypted. */
function unlock(file: HostFile, header: Qcow2Header, { before, password }: OpenOptions): VolumeKey | null {
  if (header.cryptMethod === QCOW_CRYPT_NONE) return null;
  const known = (before as Qcow2State | undefined)?.volumeKey ?? null;
  if (known !== null) return known;
  // nobody is asked for the password of a cipher that is unknown here
  if (header.cryptMethod === QCOW_CRYPT_LUKS) readLuksHeader(file, header.cryptoHeader!);
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

/** Bitmaps, and whatever unknown bits stand for, are not kept up to date here: their bits go before the first write. */
function clearAutoclear(file: HostFile, header: Qcow2Header): void {
  if (!losesAutoclear(header)) return;
  writeAutoclearFeatures(file, header, autoclearWhenWritten(header.autoclear));
  file.sync();
}

/** Then what those bits stand for, such as the clusters of bitmaps, leaks from now on. */
function losesAutoclear({ autoclear, version }: Qcow2Header): boolean {
  const kept = autoclearWhenWritten(autoclear);
  return version === 3 && (kept[0] !== autoclear[0] || kept[1] !== autoclear[1]);
}

function hasLeaks({ check: { report } }: Verified): boolean {
  return report.leaks > report.leaksFixed;
}

/** How many clusters below the last one in use have the counter 0, by stretches. */
function freeIn({ check }: Verified): ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  check.forEachFreeRun((start, count) => countInStretches(counts, start, count));
  return counts;
}
