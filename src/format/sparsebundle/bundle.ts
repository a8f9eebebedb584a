// Info.plist of a sparsebundle of macOS (UDSB): how the disk is cut in bands, which are files of the folder bands beside it. Source:
// libmodi. The file "token" beside it is empty, or has the header of an encrypted disk; a bundle may lack it.
//
//   CFBundleInfoDictionaryVersion 6.0          diskimage-bundle-type          com.apple.diskimage.sparsebundle
//   band-size                     bytes        bundle-backingstore-version    1
//   size                          bytes

import { hostOffset, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { DamagedData } from '../../codec/damaged-data.ts';
import { type PlistDictionary, parsePlist } from '../../codec/plist.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails, OpenOptions } from '../image-format.ts';

export const BANDS = 'bands';
const TOKEN = 'token';
const BUNDLE_TYPE = 'com.apple.diskimage.sparsebundle';
const VERSION = 1;
const MAX_INFO_BYTES = 1024 * 1024;
/** What hdiutil makes at most. */
const MAX_BAND_BYTES = 8 * 1024 * 1024 * 1024;
const ENCRYPTED_MAGICS = ['encrcdsa', 'cdsaencr'];

export interface Bundle {
  readonly bandBytes: number;
  /** virtual size in bytes */
  readonly diskBytes: number;
}

/** @throws ImgfuseError corrupt, unsupported */
export function readBundle(file: HostFile): Bundle {
  const { path } = file;
  try {
    return bundleFrom(file);
  } catch (error) {
    if (!(error instanceof DamagedData)) throw error;
    throw new ImgfuseError('corrupt', `${path}: this list of a sparsebundle ${error.message}`, { path }, error);
  }
}

function bundleFrom(file: HostFile): Bundle {
  const size = file.size();
  if (size > MAX_INFO_BYTES) throw new DamagedData(`has ${size} bytes; the limit is ${MAX_INFO_BYTES}`);
  const bytes = new Uint8Array(size);
  const list = parsePlist(bytes.subarray(0, file.read(bytes, 0, size, hostOffset(0))));
  if (!(list instanceof Map)) throw new DamagedData('has no dictionary');
  const entries: PlistDictionary = list;
  const type = entries.get('diskimage-bundle-type');
  if (type !== BUNDLE_TYPE) throw new DamagedData(`is of the type ${JSON.stringify(type)}, not ${BUNDLE_TYPE}`);
  const version = entries.get('bundle-backingstore-version');
  if (version !== VERSION) {
    const { path } = file;
    const sentence = `${path}: the sparsebundle has version ${JSON.stringify(version)}, and imgfuse knows ${VERSION}; convert it on a Mac`;
    throw new ImgfuseError('unsupported', sentence, { path });
  }
  return {
    bandBytes: bytesOf(entries, 'band-size', SECTOR_BYTES, MAX_BAND_BYTES),
    diskBytes: bytesOf(entries, 'size', 0, MAX_VIRTUAL_SIZE),
  };
}

function bytesOf(entries: PlistDictionary, key: string, least: number, most: number): number {
  const value = entries.get(key);
  if (typeof value === 'number' && value % SECTOR_BYTES === 0 && value >= least && value <= most) return value;
  throw new DamagedData(
    `has ${JSON.stringify(value)} at ${key}, where whole sectors from ${least} to ${most} bytes are due`,
  );
}

/**
 * The file that says whether the bundle is encrypted; null if there is none.
 * @throws ImgfuseError unsupported for a bundle that is; what openExtent() throws
 */
export function openToken({ path }: HostFile, openExtent: NonNullable<OpenOptions['openExtent']>): HostFile | null {
  const head = new Uint8Array(8);
  let token: HostFile;
  try {
    token = openExtent(TOKEN, 'extent', 'read');
  } catch (error) {
    if (error instanceof ImgfuseError && error.kind === 'missing') return null;
    throw error;
  }
  const got = token.read(head, 0, head.length, hostOffset(0));
  if (!ENCRYPTED_MAGICS.includes(Buffer.from(head.subarray(0, got)).toString('latin1'))) return token;
  const sentence = `${path}: this sparsebundle is encrypted, and imgfuse does not read such bundles; decrypt it on a Mac (hdiutil convert)`;
  throw new ImgfuseError('unsupported', sentence, { path });
}

export function describeBundle({ bandBytes, diskBytes }: Bundle): ImageDetails {
  return { format: 'sparsebundle', virtualSize: diskBytes, clusterSize: bandBytes, dirty: false, specific: {} };
}
