// A new, empty QED image: header, backing name right behind it, L1 table of zeros at cluster_size. The header is written
// last, so that a file cut short by a crash is no image at all.

import { bytesOfName } from '../../bytes/names.ts';
import { hostOffset, isPowerOfTwo, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { refuseUnknownKeys } from '../create-option.ts';
import type { CreateOptions } from '../image-format.ts';
import { parseSize } from '../size.ts';
import { QED_CREATE_HELP } from './create-help.ts';
import { isRefusedByQemu, maxImageSize } from './geometry.ts';
import {
  QED_F_BACKING_FILE,
  QED_F_BACKING_FORMAT_NO_PROBE,
  QED_HEADER_BYTES,
  QED_MAX_BACKING_NAME,
  QED_MAX_CLUSTER_SIZE,
  QED_MAX_TABLE_SIZE,
  QED_MIN_CLUSTER_SIZE,
  type QedHeader,
  serializeHeader,
} from './header.ts';

const DEFAULT_CLUSTER_SIZE = 65536;
const DEFAULT_TABLE_SIZE = 4;

/** The size is rounded up to a multiple of 512 bytes. */
export function createQed(file: HostFile, { size: wanted, options, backing, log }: CreateOptions): void {
  refuseUnknownKeys('qed', QED_CREATE_HELP, options);
  const size = roundUp(wanted, SECTOR_BYTES);
  const clusterSize = sizeOption(options, 'cluster_size', DEFAULT_CLUSTER_SIZE);
  const tableSizeClusters = sizeOption(options, 'table_size', DEFAULT_TABLE_SIZE);
  checkGeometry(clusterSize, tableSizeClusters);
  if (tableSizeClusters === 1) {
    log?.(
      `${file.path} has table_size=1, which is legal, but QEMU opens no such image; use 2 or more for one that it opens`,
    );
  }
  const limit = maxImageSize(clusterSize, tableSizeClusters);
  if (size > limit) {
    throw usage(
      `a QED image with cluster_size=${clusterSize},table_size=${tableSizeClusters} holds at most ${limit} bytes, not ${size}`,
    );
  }
  const name = bytesOfName(backing?.name ?? '');
  if (name.length > Math.min(QED_MAX_BACKING_NAME, clusterSize - QED_HEADER_BYTES)) {
    throw usage(
      `the backing file name has ${name.length} bytes; a QED header has room for ${Math.min(QED_MAX_BACKING_NAME, clusterSize - QED_HEADER_BYTES)}`,
    );
  }
  const header: QedHeader = {
    clusterSize,
    tableSizeClusters,
    headerSizeClusters: 1,
    features:
      (backing === undefined ? 0 : QED_F_BACKING_FILE) |
      (backing?.format === 'raw' ? QED_F_BACKING_FORMAT_NO_PROBE : 0),
    compatFeatures: [0, 0],
    autoclearFeatures: [0, 0],
    l1TableOffset: clusterSize,
    imageSize: size,
    backingName: backing?.name ?? null,
  };
  file.truncate(clusterSize * (1 + tableSizeClusters));
  file.write(name, 0, name.length, hostOffset(QED_HEADER_BYTES));
  file.sync();
  file.write(serializeHeader(header), 0, QED_HEADER_BYTES, hostOffset(0));
  file.sync();
}

function checkGeometry(clusterSize: number, tableSizeClusters: number): void {
  if (!isPowerOfTwo(clusterSize) || clusterSize < QED_MIN_CLUSTER_SIZE || clusterSize > QED_MAX_CLUSTER_SIZE) {
    throw usage(`cluster_size=${clusterSize} is not valid; use a power of two from 4k to 64M`);
  }
  if (!isPowerOfTwo(tableSizeClusters) || tableSizeClusters > QED_MAX_TABLE_SIZE) {
    throw usage(`table_size=${tableSizeClusters} is not valid; use a power of two from 1 to 16`);
  }
  if (tableSizeClusters !== 1 && isRefusedByQemu(clusterSize, tableSizeClusters)) {
    throw usage(
      `cluster_size=${clusterSize},table_size=${tableSizeClusters} is legal, but QEMU opens no such image; use smaller tables or clusters`,
    );
  }
}

function sizeOption(options: ReadonlyMap<string, string>, key: string, byDefault: number): number {
  const text = options.get(key);
  return text === undefined ? byDefault : parseSize(text, key);
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
