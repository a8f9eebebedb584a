// What a child stores of its parent: the UUID, the time of the last change, and its name in every form that the format has.

import { ImgfuseError } from '../../../errors/index.ts';
import type { BackingReference, ParentFacts } from '../../image-format.ts';
import { timestampOf, uuidBytes } from './footer.ts';
import type { StoredParent } from './header.ts';
import { type StoredName, storeName } from './locator.ts';

/**
 * A child knows its parent by its UUID; a raw file has none, which is all zeros.
 * @param path of the child @param refusal, place as in storeName()
 * @param parent absent: its file is not there or cannot be read
 * @throws ImgfuseError usage for what cannot be the parent
 */
export function storeParent(
  path: string,
  refusal: string,
  backing: BackingReference,
  parent: ParentFacts | undefined,
  place: (bytes: number) => number,
): StoredParent & StoredName {
  const format = backing.format ?? parent?.format;
  const refuse = (why: string): never => {
    throw new ImgfuseError('usage', `${path} ${refusal}: ${why}`);
  };
  if (format !== undefined && format !== 'vpc' && format !== 'raw') {
    refuse(`the backing file of a VHD is a VHD or a raw file, not ${format}; use an overlay of another format`);
  }
  const identity = format === 'raw' ? undefined : parent?.identity;
  if (identity === undefined && format === 'vpc') {
    refuse(`its backing file ${backing.name} is not there, and a VHD stores the UUID of its parent`);
  }
  const uuid = identity === undefined ? new Uint8Array(16) : uuidBytes(identity);
  const timestamp = parent?.modifiedMs === undefined || parent.modifiedMs === null ? 0 : timestampOf(parent.modifiedMs);
  return { uuid, timestamp, ...storeName(path, refusal, backing.name, place) };
}
