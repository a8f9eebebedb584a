// What `info` and `status` say about a qcow2 image, with the keys and the spelling of qemu-img's format-specific data.

import { describeLuks, readLuksFields } from '../../../codec/luks-header.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ImageDetails } from '../../image-format.ts';
import type { FixedHeader } from '../state.ts';
import { readBitmapDirectory } from './bitmap-directory.ts';
import { QCOW_CRYPT_AES, QCOW_CRYPT_LUKS, type Qcow2Header } from './header.ts';
import { readSnapshotTable } from './snapshot-table.ts';

/** The facts that can change while the image is open. */
interface CurrentState {
  readonly virtualSize: number;
  readonly clusterSize: number;
  readonly isDirty: boolean;
  readonly isCorrupt: boolean;
}

/**
 * @param file the image file: its bitmap directory and its LUKS header are read
 * @param log called with what a truncated copy has lost
 * @throws ImgfuseError corrupt if the directory or the LUKS header is damaged
 */
export function describeHeader(file: HostFile, header: Qcow2Header, log: Log = () => undefined): ImageDetails {
  const { size, clusterSize, isDirty, isCorrupt } = header;
  const current = { virtualSize: size, clusterSize, isDirty, isCorrupt };
  warnAboutTruncatedL1(file, header, log);
  return detailsOf(header, current, specificOf(file, header, log));
}

/** Called once per sentence. */
type Log = (sentence: string) => void;

/** Missing L1 entries read as zeros, which is not what the guest wrote, so the user must know. */
function warnAboutTruncatedL1(file: HostFile, { l1Size, l1TableOffset }: Qcow2Header, log: Log): void {
  const end = l1TableOffset + l1Size * 8;
  const size = file.size();
  if (l1Size === 0 || size >= end) return;
  log(
    `${file.path} is truncated: its ${size} bytes end before its L1 table does, at ${end}; the part of the disk that the missing entries mapped reads as zeros`,
  );
}

/** Reads a list. If a truncated file has lost it, logs that and returns an empty list, so that the rest can be shown. */
function unlessTruncated<T>(read: () => readonly T[], log: Log): readonly T[] {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ImgfuseError) || error.context.isTruncated !== true) throw error;
    log(error.message);
    return [];
  }
}

/** Like describeHeader() for an open image. Reads nothing from the file. */
export function describeOpenImage(header: FixedHeader, current: CurrentState): ImageDetails {
  const { lazyRefcounts, specific } = header;
  // version 2 has neither lazy refcounts nor a corrupt bit
  if (!('corrupt' in specific)) return detailsOf(header, current, specific);
  const changed = { 'lazy-refcounts': lazyRefcounts, corrupt: current.isCorrupt };
  return { ...detailsOf(header, current, { ...specific, ...changed }), lazyRefcounts };
}

function detailsOf(
  { backingName, backingFormat }: Pick<FixedHeader, 'backingName' | 'backingFormat'>,
  { virtualSize, clusterSize, isDirty }: CurrentState,
  specific: ImageDetails['specific'],
): ImageDetails {
  return {
    format: 'qcow2',
    virtualSize,
    clusterSize,
    dirty: isDirty,
    ...(backingName === null
      ? {}
      : { backing: { name: backingName, ...(backingFormat === null ? {} : { format: backingFormat }) } }),
    specific,
  };
}

/**
 * What `info` shows for an image that is not open: describeHeader() and the snapshots.
 * @throws ImgfuseError corrupt if the snapshot table is damaged, or as describeHeader()
 */
export function inspectHeader(file: HostFile, header: Qcow2Header, log: Log = () => undefined): ImageDetails {
  const snapshots = unlessTruncated(() => readSnapshotTable(file, header).snapshots, log);
  return { ...describeHeader(file, header, log), ...(snapshots.length === 0 ? {} : { snapshots }) };
}

function specificOf(file: HostFile, header: Qcow2Header, log: Log): Record<string, unknown> {
  const encrypt = encryptionOf(file, header);
  const common = { 'compression-type': header.compressionType };
  const refcounts = { 'refcount-bits': 2 ** header.refcountOrder, ...(encrypt === null ? {} : { encrypt }) };
  if (header.version === 2) return { compat: '0.10', ...common, ...refcounts };
  const directory = unlessTruncated(() => readBitmapDirectory(file, header), log);
  const bitmaps = directory.map(({ name, granularity, inUse, auto }) => ({
    flags: [...(inUse ? ['in-use'] : []), ...(auto ? ['auto'] : [])],
    name,
    granularity,
  }));
  return {
    compat: '1.1',
    ...common,
    'lazy-refcounts': header.lazyRefcounts,
    ...refcounts,
    corrupt: header.isCorrupt,
    'extended-l2': header.extendedL2,
    ...(header.dataFileName === null ? {} : { 'data-file': header.dataFileName }),
    ...(header.hasExternalData ? { 'data-file-raw': header.dataFileRaw } : {}),
    ...(bitmaps.length === 0 ? {} : { bitmaps }),
  };
}

function encryptionOf(
  file: HostFile,
  { cryptMethod, cryptoHeader }: Qcow2Header,
): Readonly<Record<string, unknown>> | null {
  if (cryptMethod === QCOW_CRYPT_AES) return { format: 'aes' };
  return cryptMethod === QCOW_CRYPT_LUKS ? describeLuks(readLuksFields(file, cryptoHeader!)) : null;
}
