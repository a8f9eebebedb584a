// What a parent is called after a commit of its child. A session of writing gives the parent a new CID, by which the child would not
// know it again, and no write changes two files at once. So the new one follows from the descriptor of the child:
//
//   parent C1, child knows C1            before the commit
//   parent C2 = successor(child, C1)     the commit has begun: right, and every other child of C1 is refused
//   parent C2, child knows C2            the parent has everything; now the child may be emptied
//
// C2 depends on the CID of the child: an older copy of the child, which has other grains, is refused as well. A CID keeps its number of
// digits, which the child does not know, so there is a row of successors for each number that C1 fits in. Children of VirtualBox know
// ddb.uuid.modification in place of the CID.

import { createHash } from 'node:crypto';
import { nameAfterCommit, type ParentIdentity } from '../backing-reference.ts';
import { uuidOfHash } from '../guid.ts';
import { cidDigits, isFreeCid, type NewIdentity, newIdentity } from './descriptor/edit.ts';
import type { Descriptor, LatinText } from './descriptor/parse.ts';

/** Commits that may be broken off one after the other before the child has to be told. */
const MOST_COMMITS = 8;
const CID_DIGITS = 8;

/** The CIDs of the parent after commits of this child, in their order, for the fewest digits first. */
export function cidsAfterCommits(child: Descriptor, parentCid: string): string[] {
  const fewest = Math.max(1, parentCid.replace(/^0+/, '').length);
  const rows = Array.from({ length: CID_DIGITS + 1 - fewest }, (_, i) => rowOf(child, parentCid, fewest + i));
  return rows.flat();
}

function rowOf(child: Descriptor, parentCid: string, digits: number): string[] {
  const row = [parentCid];
  for (let n = 0; row.length <= MOST_COMMITS; n++) {
    const cid = hashOf(child, `${row.at(-1)} ${digits} ${n}`)
      .toString('hex')
      .slice(0, digits)
      .padStart(CID_DIGITS, '0');
    if (isFreeCid(cid) && !row.includes(cid)) row.push(cid);
  }
  return row.slice(1);
}

/** The same of ddb.uuid.modification. */
export function uuidsAfterCommits(child: Descriptor, now: string): string[] {
  const row = [now];
  while (row.length <= MOST_COMMITS) row.push(uuidOfHash(hashOf(child, row.at(-1)!)));
  return row.slice(1);
}

function hashOf({ cid, uuids }: Descriptor, text: string): Buffer {
  return createHash('sha256').update(`imgfuse commit ${cid} ${uuids.image} ${uuids.modification} ${text}`).digest();
}

/** What the next session of writing stores. @param child of the image that is committed into this one; absent: none is */
export function nextIdentity(
  path: string,
  text: LatinText,
  { cid, uuids }: Descriptor,
  child: ParentIdentity | undefined,
): NewIdentity {
  const fresh = newIdentity(text, cid);
  const { afterCommits = [], values = [] } = child ?? {};
  if (values[0]?.length !== CID_DIGITS) {
    const next = nameAfterCommit([...values, ...afterCommits], uuids.modification ?? '', path, 'vmdk');
    return next === null ? fresh : { ...fresh, modificationUuid: next };
  }
  const fewest = CID_DIGITS + 1 - afterCommits.length / MOST_COMMITS;
  const first = (cidDigits(text) - fewest) * MOST_COMMITS;
  const row = first < 0 ? [] : [...values, ...afterCommits.slice(first, first + MOST_COMMITS)];
  const next = nameAfterCommit(row, cid, path, 'vmdk');
  // a parent that any_parent allows gets a name of its own
  return next === null ? fresh : { ...fresh, cid: next };
}
