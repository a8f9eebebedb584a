// The facts of a qcow2 header for info and status, with the keys and the spelling of qemu-img's format-specific data.

import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails } from '../image-format.ts';
import { readBitmapDirectory } from './bitmap-directory.ts';
import { QCOW_CRYPT_AES, QCOW_CRYPT_LUKS, type Qcow2Header } from './header.ts';
import { describeLuksHeader, readLuksHeader } from './luks-header.ts';
import { readSnapshotTable } from './snapshot-table.ts';
import type { FixedHeader } from './state.ts';

/** What of an open image may differ from the header that was read when it was opened. */
export interface CurrentState {
  readonly virtualSize: number;
  readonly clusterSize: number;
  readonly isDirty: boolean;
  readonly isCorrupt: boolean;
}

/**
 * @param file of the image, for its bitmap directory and its LUKS header
 * @throws ImgfuseError corrupt when one of them cannot be read
 */
export function describeHeader(file: HostFile, header: Qcow2Header): ImageDetails {
  const { size, clusterSize, isDirty, isCorrupt } = header;
  const current = { virtualSize: size, clusterSize, isDirty, isCorrupt };
  return detailsOf(header, current, specificOf(file, header));
}

/** Reads nothing: what it needs of the file was read when the image was opened. */
export function describeOpenImage(header: FixedHeader, current: CurrentState): ImageDetails {
  const { lazyRefcounts, specific } = header;
  const changed = 'corrupt' in specific ? { 'lazy-refcounts': lazyRefcounts, corrupt: current.isCorrupt } : {};
  return detailsOf(header, current, { ...specific, ...changed });
}

function detailsOf(
  { backingName, backingFormat }: Pick<FixedHeader, 'backingName' | 'backingFormat'>,
  { virtualSize, clusterSize, isDirty }: CurrentState,
  specific: ImageDetails['specific'],
): ImageDetails {
  return {
    ...{ format: 'qcow2', virtualSize, clusterSize, dirty: isDirty },
    ...(backingName === null
      ? {}
      : { backing: { name: backingName, ...(backingFormat === null ? {} : { format: backingFormat }) } }),
    specific,
  };
}

/** What `info` shows of an image that is not open: the snapshots as well. Throws corrupt when their table cannot be read. */
export function inspectHeader(file: HostFile, header: Qcow2Header): ImageDetails {
  const { snapshots } = readSnapshotTable(file, header);
  return { ...describeHeader(file, header), ...(snapshots.length === 0 ? {} : { snapshots }) };
}

function specificOf(file: HostFile, header: Qcow2Header): Record<string, unknown> {
  const encrypt = encryptionOf(file, header);
  const common = { 'compression-type': header.compressionType };
  const refcounts = { 'refcount-bits': 2 ** header.refcountOrder, ...(encrypt === null ? {} : { encrypt }) };
  if (header.version === 2) return { compat: '0.10', ...common, ...refcounts };
  const bitmaps = readBitmapDirectory(file, header).map(({ name, granularity, inUse, auto }) => ({
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
  return cryptMethod === QCOW_CRYPT_LUKS ? describeLuksHeader(readLuksHeader(file, cryptoHeader!)) : null;
}
