// The backing file of a new image. A backing file that no later open would take is refused when the image is made: a name that
// is not that of a file, a wrong format, the image itself, a chain that is too long. Only headers are read, so no password is
// asked for, and a deeper image that is locked or missing does not matter.

import { ImgfuseError } from '../errors/index.ts';
import type { ExtentRole, ParentFacts } from '../format/image-format.ts';
import { type FileIdentity, isSameFile } from '../host/file-identity.ts';
import type { HostFile } from '../host/host-file.ts';
import { isUrl, parseUrl } from '../host/http/url.ts';
import { blockDeviceNumber, isRegularFile } from '../host/paths.ts';
import { hasProtocol, meaningOfName } from './backing-name.ts';
import { EXTENT_WORDS, locateBacking, locateFile, MAX_CHAIN_DEPTH } from './backing-policy.ts';
import { imageFileOf } from './directory-image.ts';
import { openImageFile } from './image-file.ts';
import { inspectParent } from './info.ts';
import { searchParent } from './parent-search.ts';
import { formatOf } from './probe.ts';
import { formatByName, rawFormat } from './registry.ts';

/** A backing file as the user names it for a new image. */
export interface OverlayBase {
  readonly name: string;
  readonly format: string;
}

/**
 * Where the backing file is: an absolute path, or a URL. It need not be there yet.
 * @param refusal what a sentence about a wrong name says of the image
 * @throws ImgfuseError usage, permission
 */
export function locateBase(imagePath: string, { name, format }: OverlayBase, refusal = 'is not made'): string {
  formatByName(format);
  const meaning = meaningOfName(name);
  if (meaning.kind === 'url') return parseUrl(meaning.url).href;
  if (meaning.kind === 'other') throw unusable(imagePath, 'backing file', name, meaning.why, refusal);
  const path = locateFile(imagePath, meaning.path);
  if (isMissing(path)) return path;
  if (isRegularFile(path) || blockDeviceNumber(path) !== null) return path;
  const what = `the backing file ${path} is no regular file and no block device, and ${imagePath} could not be opened with it`;
  throw new ImgfuseError('usage', `${what}; copy it into an image, for example with qemu-img convert`, { path });
}

/** @throws ImgfuseError usage for what no open takes as another file of the image */
export function assertExtentName(imagePath: string, name: string, role: ExtentRole): void {
  if (hasProtocol(name))
    throw unusable(imagePath, EXTENT_WORDS[role], name, 'is no plain file, and nothing else is opened');
}

/** The same backing file, of an image that is a directory by the name of its file. Its stored name is that of no directory. */
export function baseInDirectory(imagePath: string, base: OverlayBase): OverlayBase {
  const { name } = base;
  if (meaningOfName(name).kind !== 'file' || hasProtocol(name)) return base;
  const located = locateFile(imagePath, name);
  const file = imageFileOf(located);
  return file === located ? base : { ...base, name: `${name.replace(/\/+$/, '')}${file.slice(located.length)}` };
}

/**
 * What is known of the backing file, which has to be an image of the format that was named.
 * @param log gets a sentence when the format is raw and the content says otherwise
 * @param isNeeded if false: null for a file that does not exist yet, that this user may not read, or that is on a server
 */
export function factsOfBase(
  location: string,
  format: string,
  isNeeded: boolean,
  log?: (sentence: string) => void,
): ParentFacts | null {
  if (!isNeeded && (isUrl(location) || isMissing(location))) return null;
  // a writer may be changing the size, but not the format
  const locks = isNeeded ? 'take' : 'share';
  try {
    // raw is what the user says; every other format tells itself
    const options = { locks, log, rawOption: '-F' } as const;
    const { parent } = inspectParent(location, format === rawFormat.name ? { ...options, format } : options);
    assertLooksLike(location, format, parent.format);
    return parent;
  } catch (error) {
    if (isNeeded || !(error instanceof ImgfuseError) || error.kind !== 'permission') throw error;
    return null;
  }
}

function assertLooksLike(location: string, wanted: string, found: string): void {
  if (found === wanted) return;
  throw new ImgfuseError(
    'usage',
    `the backing file ${location} is no ${wanted} image, as -F says: it looks like ${found}`,
    {
      path: location,
    },
  );
}

/**
 * Refuses a chain that leads back to the new image, or that becomes too long; an image that cannot be read ends the walk.
 * @param image the file that is to have the backing file @param what it is called
 * @param allowed as allowBacking: where images that are not named are looked for as well
 */
export function assertChainFits(
  image: HostFile,
  location: string,
  base: OverlayBase,
  { what = 'the new image', allowed = [] }: { readonly what?: string; readonly allowed?: readonly string[] } = {},
): void {
  const own = image.identity();
  let next: NamedBelow | null = { path: location, format: base.format };
  for (let images = 1; next !== null && !isUrl(next.path); images++) {
    const link = readLink(next, allowed);
    if (link === null) return;
    if (isSameFile(link.identity, own)) {
      const way = images === 1 ? `is ${what} itself` : `is based on ${image.path}, ${what} itself`;
      throw new ImgfuseError('usage', `the backing file ${location} ${way}`, { path: location });
    }
    if (images >= MAX_CHAIN_DEPTH) {
      throw new ImgfuseError(
        'limit',
        `${location} is the top of ${MAX_CHAIN_DEPTH} images or more, and no chain with one more is opened; merge some of them, ` +
          'for example with qemu-img convert or qemu-img commit',
        { path: location },
      );
    }
    next = link.next;
  }
}

interface ChainLink {
  readonly identity: FileIdentity;
  readonly next: NamedBelow | null;
}

/** An image of a chain, as the one above names it. */
export interface NamedBelow {
  /** absolute, or a URL */
  readonly path: string;
  /** absent: nobody says */
  readonly format?: string | undefined;
}

/**
 * The images below one, the nearest first, from headers alone: as far as these can be read.
 * @param allowed as for assertChainFits()
 */
export function* imagesBelow(image: NamedBelow, allowed: readonly string[]): Generator<NamedBelow, void> {
  let next: NamedBelow | null = image;
  for (let images = 0; images < MAX_CHAIN_DEPTH; images++) {
    next = (readLink(next, allowed, images === 0 ? 'user' : 'image') ?? { next: null }).next;
    if (next === null) return;
    yield next;
  }
}

/** Identity of one image and its backing file, from its header; null if it cannot be read. */
function readLink(
  { path, format }: NamedBelow,
  allowed: readonly string[],
  namedBy: 'user' | 'image' = 'image',
): ChainLink | null {
  let file: HostFile;
  try {
    file = openImageFile(path, true, namedBy);
  } catch {
    return null;
  }
  try {
    const identity = file.identity();
    return { identity, next: belowOf(path, file, format, allowed) };
  } finally {
    file.close();
  }
}

function belowOf(
  path: string,
  file: HostFile,
  format: string | undefined,
  allowed: readonly string[],
): ChainLink['next'] {
  try {
    const { backing } = formatOf(file, format).inspect(file);
    if (backing === undefined) return null;
    const searched = searchParent({ name: path, path: file.path }, backing, { allowed });
    if (searched !== null) return { path: searched.path, format: backing.format };
    const meaning = meaningOfName(backing.name);
    if (meaning.kind === 'file') {
      return { path: locateFile(path, meaning.path), format: backing.format ?? meaning.format };
    }
    return { path: locateBacking(path, backing.name), format: backing.format };
  } catch {
    return null;
  }
}

function isMissing(path: string): boolean {
  try {
    isRegularFile(path);
    return false;
  } catch (error) {
    if (error instanceof ImgfuseError && error.kind === 'missing') return true;
    throw error;
  }
}

function unusable(imagePath: string, what: string, name: string, why: string, refusal = 'is not made'): ImgfuseError {
  // "a:b" may well be meant as a file; "nbd://host" and "json:{}" are not
  const isWord = hasProtocol(name) && !name.startsWith('json:') && !/^[^/]*:\/\//.test(name);
  const cure = isWord ? `; a file of that name is called ./${name}` : '';
  return new ImgfuseError('usage', `${imagePath} ${refusal}: its ${what} '${name}' ${why}${cure}`, {
    path: imagePath,
  });
}
