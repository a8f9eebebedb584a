// How an image names the one below it. VMware: by its CID, with a name as a hint, which counts from the child and may be spelled as
// on Windows. VirtualBox: by UUIDs alone.

import { ImgfuseError } from '../../errors/index.ts';
import type { BackingReference } from '../image-format.ts';
import type { Descriptor } from './descriptor/parse.ts';

/** What children may know of an image: its CID, and the UUIDs of VirtualBox. */
export function identityOf({ uuids }: Descriptor, cid: string, modificationUuid: string | null): string {
  return [cid, uuids.image, modificationUuid].filter((word) => word !== null).join(' ');
}

/** null: there is no parent. @throws ImgfuseError corrupt */
export function parentReference(descriptor: Descriptor, path: string): BackingReference | null {
  const { parentCid, parentHint, uuids } = descriptor;
  if (parentCid === null) return uuids.parent === null ? null : byUuid(uuids.parent, uuids.parentModification);
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
  return { name, otherNames, format: 'vmdk', identity: { word: 'CID', values: [parentCid] } };
}

function byUuid(uuid: string, modification: string | null): BackingReference {
  const search = {
    what: `with ddb.uuid.image ${uuid}`,
    matches: (identity: string) => identity.split(' ')[1] === uuid,
  };
  const reference = { name: `uuid:${uuid}`, format: 'vmdk', search };
  return modification === null
    ? reference
    : { ...reference, identity: { word: 'ddb.uuid.modification', values: [modification] } };
}
