// Names another backing file in the header. The new name is written beside the old one and synced; then name, length and feature
// bits change with one write of the 64 header bytes: a crash leaves the old reference or the new one.

import { bytesOfName } from '../../bytes/names.ts';
import { hostOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { BackingReference } from '../image-format.ts';
import {
  FEATURES_OFFSET,
  QED_F_BACKING_FILE,
  QED_F_BACKING_FORMAT_NO_PROBE,
  QED_HEADER_BYTES,
  QED_MAX_BACKING_NAME,
  readHeader,
} from './header.ts';

const NAME_OFFSET = 56;
const NAME_SIZE = 60;

/** @throws ImgfuseError limit: there is no room for the name, and nothing is changed */
export function setQedBacking(file: HostFile, backing: BackingReference | null): void {
  const { clusterSize, features, headerSizeClusters } = readHeader(file, { mayBeCut: false });
  const bytes = new Uint8Array(QED_HEADER_BYTES);
  file.read(bytes, 0, bytes.length, hostOffset(0));
  const view = new DataView(bytes.buffer);
  const name = bytesOfName(backing?.name ?? '');
  const hasName = (features & QED_F_BACKING_FILE) !== 0;
  const old = hasName ? { start: view.getUint32(NAME_OFFSET, true), length: view.getUint32(NAME_SIZE, true) } : null;
  const at = placeBeside(old, name.length, clusterSize * headerSizeClusters);
  if (at === null || name.length > QED_MAX_BACKING_NAME) throw noRoom(file, name.length);
  if (name.length > 0) {
    file.write(name, 0, name.length, hostOffset(at));
    file.sync();
  }
  const others = features & ~(QED_F_BACKING_FILE | QED_F_BACKING_FORMAT_NO_PROBE);
  const own =
    (backing === null ? 0 : QED_F_BACKING_FILE) | (backing?.format === 'raw' ? QED_F_BACKING_FORMAT_NO_PROBE : 0);
  view.setUint32(FEATURES_OFFSET, others | own, true);
  view.setUint32(NAME_OFFSET, name.length === 0 ? 0 : at, true);
  view.setUint32(NAME_SIZE, name.length, true);
  file.write(bytes, 0, bytes.length, hostOffset(0));
  file.sync();
}

/** Right behind the header fields, or behind the old name. @returns null if there is no room */
function placeBeside(
  old: { readonly start: number; readonly length: number } | null,
  length: number,
  end: number,
): number | null {
  if (old === null || QED_HEADER_BYTES + length <= old.start)
    return QED_HEADER_BYTES + length <= end ? QED_HEADER_BYTES : null;
  const behind = old.start + old.length;
  return behind + length <= end ? behind : null;
}

function noRoom({ path }: HostFile, length: number): ImgfuseError {
  return new ImgfuseError(
    'limit',
    `${path} has no room in its header for a backing file name of ${length} bytes beside the old one; use a shorter, relative name`,
    { path },
  );
}
