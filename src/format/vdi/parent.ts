// The parent of a differencing image, which it knows by nothing but UUIDs: uuidCreate says which image that is, uuidModify in what
// state. Every session of writing gives the parent a new uuidModify, a commit of the child as well. No write changes two files at once,
// so the name that a commit gives the parent follows from the header of the child: the child takes it for right before it stores it.
//
//   parent U1, child knows U1          before the commit
//   parent U2 = successor(child, U1)   the commit has begun: right, and every other child of U1 is refused
//   parent U2, child knows U2          the parent has everything; now the child may be emptied
//
// The name depends on the uuidModify of the child: an older copy of the child, which has other blocks, is refused as well.

import { createHash } from 'node:crypto';
import { basename, dirname } from 'node:path';
import { ImgfuseError } from '../../errors/index.ts';
import { isUrl } from '../../host/http/url.ts';
import { fileKind, realPath } from '../../host/paths.ts';
import { type BackingReference, nameAfterCommit, type ParentFacts, type ParentIdentity } from '../backing-reference.ts';
import { NULL_UUID, newUuid, uuidBytes, uuidOfHash } from '../guid.ts';

/** Of a header. */
export interface VdiUuids {
  readonly uuidCreate: string;
  readonly uuidModify: string;
  /** uuidCreate and uuidModify of the parent, the null UUID in an image without one */
  readonly uuidLinkage: string;
  readonly uuidParentModify: string;
}

/** Commits that may be broken off one after the other before the child has to be told. */
const MOST_COMMITS = 16;

/** What a child stores of this image: which one it is, and in what state. */
export function identityOf({ uuidCreate, uuidModify }: Pick<VdiUuids, 'uuidCreate' | 'uuidModify'>): string {
  return `${uuidCreate} ${uuidModify}`;
}

/** uuidModify in an identity. */
function modifyOf(identity: string): string {
  return identity.slice(identity.indexOf(' ') + 1);
}

/** How a differencing image names its parent. */
export function parentReference(header: VdiUuids & { readonly isVersion0: boolean }): BackingReference {
  const { isVersion0, uuidLinkage, uuidParentModify } = header;
  const name = `uuid:${uuidLinkage}`;
  const search = {
    what: `with uuidCreate ${uuidLinkage}`,
    matches: (identity: string) => identity.startsWith(`${uuidLinkage} `),
  };
  // version 0 has no uuidParentModify
  if (isVersion0) return { name, format: 'vdi', search };
  const values = [identityOf({ uuidCreate: uuidLinkage, uuidModify: uuidParentModify })];
  const afterCommits = successors(header);
  return { name, format: 'vdi', search, identity: { word: 'uuidCreate with uuidModify', values, afterCommits } };
}

/** The identities of the parent after commits of the child with this header, in their order. */
function successors({ uuidCreate, uuidLinkage, uuidModify, uuidParentModify }: VdiUuids): string[] {
  const identities: string[] = [];
  for (let last = uuidParentModify; identities.length < MOST_COMMITS; ) {
    const hash = createHash('sha256').update(`imgfuse commit ${uuidCreate} ${uuidModify} ${last}`).digest();
    last = uuidOfHash(hash);
    identities.push(identityOf({ uuidCreate: uuidLinkage, uuidModify: last }));
  }
  return identities;
}

/** uuidModify of the next session of writing. @param child of the image that is committed into this one; absent: none is */
export function nextModify(path: string, header: VdiUuids, child: ParentIdentity | undefined): string {
  const known = child === undefined ? [] : [...child.values, ...(child.afterCommits ?? [])];
  const next = nameAfterCommit(known, identityOf(header), path, 'vdi');
  // a parent that any_parent allows gets a name of its own
  return next === null ? newUuid() : modifyOf(next);
}

/** uuidCreate and uuidModify of a parent, by which alone a child finds it again; null UUIDs for none. */
export function uuidsOf(
  backing: BackingReference | null,
  parent: ParentFacts | undefined,
): Pick<VdiUuids, 'uuidLinkage' | 'uuidParentModify'> {
  if (backing === null) return { uuidLinkage: NULL_UUID, uuidParentModify: NULL_UUID };
  const [create, modify] = parent?.identity?.split(' ') ?? [];
  if (create !== undefined && modify !== undefined && create !== NULL_UUID)
    return { uuidLinkage: create, uuidParentModify: modify };
  throw new ImgfuseError(
    'usage',
    `${backing.name} cannot be the backing file of a VDI image: that knows its parent by UUIDs, and this one has none or cannot be read; ` +
      'use -F vdi with a VDI image, or give the other image another format',
  );
}

/** The child does not store where its parent is, and every open looks for it (disk/parent-search.ts). */
export function sayWhereParentIs(
  child: string,
  parent: ParentFacts | undefined,
  log: ((sentence: string) => void) | undefined,
): void {
  if (parent === undefined) return;
  const own = realPath(dirname(child));
  // the search follows no links
  const file = isUrl(parent.path) || fileKind(parent.path) === 'missing' ? parent.path : realPath(parent.path);
  const isSearched = own === dirname(file) || (basename(own) === 'Snapshots' && dirname(own) === dirname(file));
  if (isSearched && file.toLowerCase().endsWith('.vdi')) return;
  log?.(
    `${child} knows its backing file by a UUID and stores no name; ${file} is no .vdi file in the same folder, so every use of ` +
      `${child} needs --allow-backing ${file}`,
  );
}

/** @param identity of the parent as it is called now @returns what of the header of the child says so */
export function parentModifyBytes(identity: string): Uint8Array {
  return uuidBytes(modifyOf(identity));
}
