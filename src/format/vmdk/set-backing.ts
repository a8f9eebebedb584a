// Names another parent in the descriptor, or none: the CID of the parent, the hint where it is, the UUIDs of VirtualBox, and a new CID
// of the image itself, because its children may see something else now. All of it is text, and changes as a whole (pending.ts): a
// crash leaves the old parent or the new one. No extent is touched.

import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { BackingReference, ParentFacts } from '../backing-reference.ts';
import { newIdentity, withIdentity, withParent } from './descriptor/edit.ts';
import { isFlat, parseDescriptor } from './descriptor/parse.ts';
import { findDescriptor, plainWriter, replaceText } from './descriptor/place.ts';
import { parentWords } from './parent.ts';

/** @throws ImgfuseError usage, unsupported, read-only, limit: nothing is changed */
export function setVmdkBacking(file: HostFile, backing: BackingReference | null, parent?: ParentFacts): void {
  if (backing !== null) assertVmdkBacking(file, backing, parent);
  const { embedding, place, text } = findDescriptor(file);
  const { cid, parentCid, uuids } = parseDescriptor(text, file.path, embedding !== null);
  const why = embedding?.facts.onlyRead ?? null;
  if (why !== null) throw new ImgfuseError('read-only', `${file.path} is ${why}`, { path: file.path });
  if (backing === null && parentCid === null && uuids.parent === null) return;
  const words = parentWords(backing, parent);
  const identity = newIdentity(text, cid);
  const change = (old: string): string => withIdentity(withParent(old, words), identity);
  replaceText(file, place, change, { ...plainWriter(file), isWhole: true });
}

/** A flat extent has all of its bytes, so a parent would show nowhere in it. */
export function assertVmdkBacking(file: HostFile, backing: BackingReference, parent?: ParentFacts): void {
  parentWords(backing, parent);
  const { embedding, text } = findDescriptor(file);
  const { createType, extents } = parseDescriptor(text, file.path, embedding !== null);
  if (!extents.some(isFlat)) return;
  const message = `${file.path} is a ${createType} image, which has no backing file; copy its disk into an image with sparse extents`;
  throw new ImgfuseError('unsupported', message, { path: file.path });
}
