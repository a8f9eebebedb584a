// The parent of a differencing image, which it knows by its DataWriteGuid. Every session in which the guest's data may change gives the
// parent a new one, a commit of the child as well. No write changes two files at once, so the name that a commit gives the parent follows
// from what the child is: the child takes it for right before it stores it.
//
//   parent G1, child knows G1          before the commit
//   parent G2 = successor(child, G1)   the commit has begun: right, and every other child of G1 is refused
//   parent G2, child knows G2          the parent has everything; now the child may be emptied
//
// The name depends on the DataWriteGuid of the child: an older copy of the child, which has other blocks, is refused as well.

import { createHash } from 'node:crypto';
import { ImgfuseError } from '../../errors/index.ts';
import { isUrl } from '../../host/http/url.ts';
import { type BackingReference, nameAfterCommit, type ParentFacts, type ParentIdentity } from '../backing-reference.ts';
import { NULL_UUID, newUuid, uuidOfHash } from '../guid.ts';
import type { VhdxHeader } from './header/header.ts';
import type { Layout } from './header/layout.ts';
import { linkageBytes, MAX_VALUE_BYTES, type NewLocator } from './header/locator.ts';
import type { DiskFacts } from './header/metadata.ts';
import type { Patch } from './log/writer.ts';

/** Commits that may be broken off one after the other before the child has to be told. */
const MOST_COMMITS = 16;

/** How a differencing image names its parent; null: it has none. */
export function parentReference({ disk, headers }: Pick<Layout, 'disk' | 'headers'>): BackingReference | null {
  const { diskId, parent } = disk;
  if (parent === null) return null;
  const { linkages, names } = parent;
  const [name, ...otherNames] = names;
  const afterCommits = successors(diskId, headers.current.dataWriteGuid, linkages[0]!);
  const identity = { word: 'data write GUID', values: linkages, afterCommits };
  return { name: name!, otherNames, format: 'vhdx', identity };
}

/** The DataWriteGuids of the parent after commits of this child, in their order. */
function successors(diskId: string, dataWriteGuid: string, linkage: string): string[] {
  const guids: string[] = [];
  for (let last = linkage; guids.length < MOST_COMMITS; guids.push(last)) {
    last = uuidOfHash(createHash('sha256').update(`imgfuse commit ${diskId} ${dataWriteGuid} ${last}`).digest());
  }
  return guids;
}

/** DataWriteGuid of the next session of writing. @param child of the image that is committed into this one; absent: none is */
export function nextDataWriteGuid(path: string, header: VhdxHeader, child: ParentIdentity | undefined): string {
  const now = header.dataWriteGuid;
  const known =
    child === undefined ? [] : [child.values.find((value) => value === now) ?? '', ...(child.afterCommits ?? [])];
  // a parent that any_parent allows gets a name of its own
  return nameAfterCommit(known, now, path, 'vhdx') ?? newUuid();
}

/** What of the locator says that the parent has this DataWriteGuid. */
export function linkagePatches({ locatorAt, parent }: DiskFacts, guid: string): Patch[] {
  return (parent?.linkagePlaces ?? []).map(({ at, bytes }) => ({
    offset: locatorAt + at,
    bytes: linkageBytes(guid, bytes),
  }));
}

/**
 * What an image stores of its parent. @param path of the image @param refusal what a sentence about a wrong parent says of it
 * @throws ImgfuseError usage for what cannot be its parent
 */
export function newLocator(
  path: string,
  refusal: string,
  backing: BackingReference,
  parent: ParentFacts | undefined,
): NewLocator {
  const { name } = backing;
  const refuse = (why: string): never => {
    throw new ImgfuseError('usage', `${path} ${refusal}: ${why}`);
  };
  const linkage = parent?.identity ?? '';
  if (!isGuid(linkage)) {
    refuse(
      `${name} cannot be the backing file of a VHDX: that knows its parent by a GUID, and this one has none or cannot be read; use ` +
        '-F vhdx with a VHDX, or give the other image another format',
    );
  }
  if (isUrl(name)) refuse(`${name} cannot be the backing file of a VHDX, which stores paths and no URLs`);
  if (!name.isWellFormed())
    refuse(`the name '${name}' of its backing file is not UTF-8, and a VHDX stores names as UTF-16`);
  if (name.includes('\\'))
    refuse(`the name '${name}' of its backing file has a backslash, which separates directories in a VHDX`);
  const windows = windowsPath(name);
  if (2 * windows.length + 4 > MAX_VALUE_BYTES) refuse(`the name of its backing file has ${name.length} characters`);
  if (name.startsWith('/')) return { linkage, relativePath: null, absolutePath: windows };
  const relativePath = windows.startsWith('.\\') || windows.startsWith('..\\') ? windows : `.\\${windows}`;
  return { linkage, relativePath, absolutePath: absolutePathOf(parent!) };
}

/** For programs that look for nothing else; null if Windows could not spell it. */
function absolutePathOf({ path }: ParentFacts): string | null {
  const canBe =
    path.startsWith('/') && path.isWellFormed() && !path.includes('\\') && 2 * path.length <= MAX_VALUE_BYTES;
  return canBe ? windowsPath(path) : null;
}

function windowsPath(name: string): string {
  return name.replaceAll('/', '\\');
}

function isGuid(text: string): boolean {
  return /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text) && text !== NULL_UUID;
}
