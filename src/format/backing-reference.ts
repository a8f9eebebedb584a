// How an image refers to the image below it: by a name, by an identity, or by an identity alone.

import { ImgfuseError } from '../errors/index.ts';

/** Which image a reference means, whatever its file is called. */
export interface ParentIdentity {
  /** the word of the specification, as a sentence says it: "CID", "data write GUID" */
  readonly word: string;
  /**
   * Each of them is the right one; the first is that of the state that the image was made on. Of an identity of several words, one word
   * is enough.
   */
  readonly values: readonly string[];
  /**
   * What the parent may be called once the image has been committed into it, in their order: right as well. Absent: a commit would
   * make the parent another one.
   */
  readonly afterCommits?: readonly string[];
}

/** @param found `identity` of an image */
export function isMeant({ afterCommits = [], values }: ParentIdentity, found: string): boolean {
  const right = [...values, ...afterCommits];
  return right.includes(found) || found.split(' ').some((word) => right.includes(word));
}

/**
 * What an image is called once the image above has been committed into it. @param known names that the image above knows it by, in their
 * order @param now its name @returns null: the image above does not know it, so it will be told @throws ImgfuseError limit
 */
export function nameAfterCommit(known: readonly string[], now: string, path: string, format: string): string | null {
  const at = known.lastIndexOf(now);
  if (at < 0) return null;
  const next = known[at + 1];
  if (next !== undefined) return next;
  throw new ImgfuseError(
    'limit',
    `${known.length - 1} commits into ${path} were broken off, and its child must learn what it is called now: run imgfuse rebase -u ` +
      `-F ${format} -b ${path} CHILD, and then the commit`,
    { path },
  );
}

/** What a parent is looked for by, if the image has no name of it. */
export interface ParentSearch {
  /** which image it is, as a sentence goes on after "a VDI image" */
  readonly what: string;
  /** of `identity` of an image: this is the one, in whatever state */
  readonly matches: (identity: string) => boolean;
}

/** How an image names the image below it. */
export interface BackingReference {
  readonly name: string;
  /** as the image spells it, for `info`; absent: as `name` */
  readonly stored?: string;
  /** `name` leads to no file, and stands in messages and for `info`; `format` is given */
  readonly search?: ParentSearch;
  /** tried in their order if no file of that name is there, or may be opened */
  readonly otherNames?: readonly string[];
  /** absent: the image does not say */
  readonly format?: string;
  /** compared with `identity` of the image that is found; absent: the name is all there is */
  readonly identity?: ParentIdentity;
}

/** What is known of the image that a new one is made on. */
export interface ParentFacts {
  /** absolute, or a URL */
  readonly path: string;
  /** name of its format */
  readonly format: string;
  readonly virtualSize: number;
  /** of ImageDetails */
  readonly identity?: string;
  readonly sectorSize?: number;
  /** when its bytes last changed, in ms since the epoch; null if that is not known */
  readonly modifiedMs: number | null;
}
