// A new image of one file, of the second kind: header and BAT; the first cluster lies at a multiple of the cluster size. The header is
// written last, so that a file cut short by a crash is no image at all.

import { hostOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { refuseUnknownKeys } from '../create-option.ts';
import type { CreateOptions } from '../image-format.ts';
import { parseSize } from '../size.ts';
import { PARALLELS_CREATE_HELP } from './create-help.ts';
import { HEADER_BYTES, MAX_CLUSTER_BYTES, MAX_ENTRIES, serializeHeader } from './header.ts';
import { ENTRY_BYTES } from './plain/geometry.ts';

const DEFAULT_CLUSTER_BYTES = 1024 * 1024;

/** The size is rounded up to a multiple of 512 bytes. */
export function createParallels(file: HostFile, { size, options }: CreateOptions): void {
  refuseUnknownKeys('parallels', PARALLELS_CREATE_HELP, options);
  const diskBytes = roundUp(size, SECTOR_BYTES);
  const clusterBytes = clusterOption(options);
  const entries = Math.ceil(diskBytes / clusterBytes);
  if (entries > MAX_ENTRIES) {
    const sentence = `a Parallels image with cluster_size=${clusterBytes} cannot hold ${diskBytes} bytes; use larger clusters`;
    throw new ImgfuseError('usage', sentence);
  }
  const data = roundUp(HEADER_BYTES + entries * ENTRY_BYTES, clusterBytes);
  file.truncate(data);
  file.sync();
  const header = serializeHeader(clusterBytes, diskBytes, data);
  file.write(header, 0, header.length, hostOffset(0));
  file.sync();
}

function clusterOption(options: ReadonlyMap<string, string>): number {
  const text = options.get('cluster_size');
  const bytes = text === undefined ? DEFAULT_CLUSTER_BYTES : parseSize(text, 'cluster_size');
  if (bytes > 0 && bytes % SECTOR_BYTES === 0 && bytes <= MAX_CLUSTER_BYTES) return bytes;
  throw new ImgfuseError('usage', `cluster_size=${text} is not valid; use whole sectors of 512 bytes, up to 1G`);
}
