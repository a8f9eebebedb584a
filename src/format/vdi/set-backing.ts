// Names another parent in the header, or none. Type, UUIDs of the parent and uuidModify lie in sector 0 and change with one write: a
// crash leaves the old parent or the new one.

import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { BackingReference, ParentFacts } from '../backing-reference.ts';
import { NULL_UUID, newUuid, uuidBytes } from '../guid.ts';
import {
  assertWritable,
  readHeader,
  TYPE_AT,
  UUID_LINKAGE_AT,
  UUID_MODIFY_AT,
  UUID_PARENT_MODIFY_AT,
  u32Field,
  VDI_IMAGE_TYPE_DIFF,
  VDI_IMAGE_TYPE_FIXED,
  VDI_IMAGE_TYPE_NORMAL,
  writeHeaderFields,
} from './header.ts';
import { sayWhereParentIs, uuidsOf } from './parent.ts';

/** @throws ImgfuseError usage, unsupported: nothing is changed */
export function setVdiBacking(
  file: HostFile,
  backing: BackingReference | null,
  parent?: ParentFacts,
  log?: (sentence: string) => void,
): void {
  if (backing !== null) assertVdiBacking(file, backing, parent);
  const header = readHeader(file);
  assertWritable(file, header);
  if (header.uuidLinkage === NULL_UUID && backing === null) return;
  const { uuidLinkage, uuidParentModify } = uuidsOf(backing, parent);
  // a child of this image may show something else over another parent, so it is refused from now on
  const uuids: readonly (readonly [at: number, uuid: string])[] = [
    [UUID_MODIFY_AT, newUuid()],
    [UUID_LINKAGE_AT, uuidLinkage],
    [UUID_PARENT_MODIFY_AT, uuidParentModify],
  ];
  const type = backing === null ? VDI_IMAGE_TYPE_NORMAL : VDI_IMAGE_TYPE_DIFF;
  writeHeaderFields(file, [u32Field(TYPE_AT, type), ...uuids.map(([at, uuid]) => ({ at, bytes: uuidBytes(uuid) }))]);
  file.sync();
  sayWhereParentIs(file.path, parent, log);
}

/** A static image has all of its blocks, so a parent would show nowhere; VirtualBox has no such images. */
export function assertVdiBacking(file: HostFile, backing: BackingReference, parent?: ParentFacts): void {
  uuidsOf(backing, parent);
  if (readHeader(file).type !== VDI_IMAGE_TYPE_FIXED) return;
  const message = `${file.path} is a static VDI image, which has no backing file; copy its disk into an image that is not static`;
  throw new ImgfuseError('unsupported', message, { path: file.path });
}
