// Names another backing file in the header. Offset and length of the name lie in the first sector, and decide:
//
//   header and name in the first sector    one write of both
//   else the name where nothing is -> fdatasync -> offset and length
//
// Where nothing is: behind the header, if the old name is elsewhere and the L1 table leaves room; else a cluster of its own at the end
// of the file, as QEMU reads it, too. A crash leaves the old name or the new one, and maybe a cluster that nobody refers to: a leak
// that the next read-write open reclaims.

import { writeU64BE } from '../../bytes/endian.ts';
import { bytesOfName } from '../../bytes/names.ts';
import { hostOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { BackingReference, ParentFacts } from '../backing-reference.ts';
import { checkTables } from './check.ts';
import { storedName } from './create.ts';
import { Geometry } from './geometry.ts';
import {
  BACKING_OFFSET_AT,
  BACKING_SIZE_AT,
  HEADER_BYTES,
  MAX_BACKING_NAME,
  type QcowHeader,
  readHeader,
} from './header.ts';

/** Smaller clusters are what QEMU makes over a backing file: it copies nothing up around what it writes. */
const QEMU_CLUSTER_BYTES = 512;

/** @throws ImgfuseError usage, limit: nothing is changed */
export function setQcowBacking(
  file: HostFile,
  backing: BackingReference | null,
  parent?: ParentFacts,
  log: (sentence: string) => void = () => undefined,
): void {
  const name = nameBytes(file, backing, parent);
  const header = readHeader(file);
  const fields = new Uint8Array(HEADER_BYTES);
  file.read(fields, 0, HEADER_BYTES, hostOffset(0));
  const at = name.length === 0 ? 0 : placeFor(name.length, header, file.size());
  const view = new DataView(fields.buffer);
  writeU64BE(view, BACKING_OFFSET_AT, at);
  view.setUint32(BACKING_SIZE_AT, name.length, false);
  const isOneWrite = at === HEADER_BYTES && at + name.length <= SECTOR_BYTES;
  const first = isOneWrite ? Buffer.concat([fields, name]) : fields;
  if (!isOneWrite && name.length > 0) {
    file.write(name, 0, name.length, hostOffset(at));
    file.sync();
  }
  file.write(first, 0, first.length, hostOffset(0));
  file.sync();
  clearOldName(file, header);
  if (header.backingName === null && name.length > 0 && 2 ** header.clusterBits > QEMU_CLUSTER_BYTES) {
    log(
      `${file.path} has clusters of ${2 ** header.clusterBits} bytes, and QEMU writes zeros around what it writes to them over a backing ` +
        'file: let only imgfuse write to it, or copy it to qcow2',
    );
  }
}

/** A cluster that held nothing but the old name is free once it reads as zeros, and would be a leak. In a damaged image it may hold more. */
function clearOldName(file: HostFile, header: QcowHeader): void {
  if (header.backingName === null || header.backingOffset < new Geometry(header).l1End) return;
  if (checkTables(file, header, { repair: 'none', log: () => undefined }).report.corruptions > 0) return;
  const { length } = bytesOfName(header.backingName);
  file.write(new Uint8Array(length), 0, length, hostOffset(header.backingOffset));
  file.sync();
}

/** @throws ImgfuseError usage, limit */
export function assertQcowBacking(file: HostFile, backing: BackingReference, parent?: ParentFacts): void {
  nameBytes(file, backing, parent);
}

function nameBytes(file: HostFile, backing: BackingReference | null, parent: ParentFacts | undefined): Uint8Array {
  if (backing === null) return new Uint8Array(0);
  const name = bytesOfName(storedName(file, backing, parent?.path));
  if (name.length > 0 && name.length <= MAX_BACKING_NAME) return name;
  const message = `${file.path}: a backing file name of ${name.length} bytes; a qcow image holds at most ${MAX_BACKING_NAME}`;
  throw new ImgfuseError('limit', message, { path: file.path });
}

function placeFor(length: number, header: QcowHeader, fileBytes: number): number {
  const { backingName, backingOffset, clusterBits, l1TableOffset } = header;
  const end = HEADER_BYTES + length;
  // a name beyond the first sector may be torn
  const isInTheWay = backingName !== null && backingOffset < end && end > SECTOR_BYTES;
  return end <= l1TableOffset && !isInTheWay ? HEADER_BYTES : roundUp(fileBytes, 2 ** clusterBits);
}
