// How an image names the one below it. VMware: by its CID, with a name as a hint, which counts from the child and may be spelled as
// on Windows. VirtualBox: by UUIDs alone.

import { bytesOfName } from '../../bytes/names.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { BackingReference, ParentFacts } from '../backing-reference.ts';
import { cidsAfterCommits, uuidsAfterCommits } from './commits.ts';
import type { ParentWords } from './descriptor/edit.ts';
import { type Descriptor, NO_CID, NO_UUID } from './descriptor/parse.ts';

/** Words of an identity that tell one kind of children from the other. */
export const CID_WORD = 'CID';
const UUID_WORD = 'ddb.uuid.modification';

/** What children may know of an image: its CID, and the UUIDs of VirtualBox. */
export function identityOf({ uuids }: Descriptor, cid: string, modificationUuid: string | null): string {
  return [cid, ...(uuids.image === null ? [] : [uuids.image, modificationUuid ?? ''])].join(' ').trimEnd();
}

/** null: there is no parent. @throws ImgfuseError corrupt */
export function parentReference(descriptor: Descriptor, path: string): BackingReference | null {
  const { parentCid, parentHint, uuids } = descriptor;
  if (parentCid === null) return uuids.parent === null ? null : byUuid(descriptor, uuids.parent);
  if (parentHint === null) {
    throw new ImgfuseError(
      'corrupt',
      `${path} has a parent with the CID ${parentCid}, and no parentFileNameHint says where`,
      {
        path,
      },
    );
  }
  const name = parentHint.replaceAll('\\', '/');
  const last = name.slice(name.lastIndexOf('/') + 1);
  const otherNames = [parentHint, last].filter((other, i, all) => other !== name && all.indexOf(other) === i);
  const afterCommits = cidsAfterCommits(descriptor, parentCid);
  const identity = { word: CID_WORD, values: [parentCid], afterCommits };
  return { name, ...(name === parentHint ? {} : { stored: parentHint }), otherNames, format: 'vmdk', identity };
}

function byUuid(descriptor: Descriptor, uuid: string): BackingReference {
  const search = {
    what: `with ddb.uuid.image ${uuid}`,
    matches: (identity: string) => identity.split(' ')[1] === uuid,
  };
  const reference = { name: `uuid:${uuid}`, format: 'vmdk', search };
  const { parentModification: now } = descriptor.uuids;
  if (now === null) return reference;
  const afterCommits = uuidsAfterCommits(descriptor, now);
  return { ...reference, identity: { word: UUID_WORD, values: [now], afterCommits } };
}

/** A child knows its parent by its CID, so that has to be there. @throws ImgfuseError usage */
export function parentWords(backing: BackingReference | null, parent: ParentFacts | undefined): Required<ParentWords> {
  if (backing === null) return { cid: NO_CID, hint: null, uuids: { image: NO_UUID, modification: NO_UUID } };
  const { name } = backing;
  const hint = Buffer.from(bytesOfName(name)).toString('latin1');
  if (/["\n\r\0]/.test(hint)) throw usage(`the name ${JSON.stringify(name)} cannot stand in a VMDK descriptor`);
  const [cid = '', image = NO_UUID, modification = NO_UUID] = parent?.identity?.split(' ') ?? [];
  if (/^[0-9a-f]{8}$/.test(cid)) return { cid, hint, uuids: { image, modification } };
  throw usage(
    `${name} cannot be the backing file of a VMDK image: that knows its parent by a CID, and this one has none or cannot be read; use ` +
      '-F vmdk with a VMDK image, or give the other image another format',
  );
}

/** @param child the image that has this parent already @param identity what the parent is called now */
export function renamedParent(child: Descriptor, identity: string): ParentWords {
  const [cid = '', , modification = NO_UUID] = identity.split(' ');
  // a child of VirtualBox does not know the CID
  return { ...(child.parentCid === null ? {} : { cid }), uuids: { modification } };
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
