// Looking for a parent by its identity. VDI knows its parent by a UUID alone and does not name it. Looked through are the files that the
// user named, the image's own folder, the folder above one that is called Snapshots (VirtualBox puts children there), and the
// folders that the user allowed, in this order. Only headers are read, of regular files, and not of too many.

import * as path from 'node:path';
import { closingAfter } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import { isMeant, type ParentIdentity, type ParentSearch } from '../format/backing-reference.ts';
import type { BackingReference, ImageFormat } from '../format/image-format.ts';
import { isSameFile } from '../host/file-identity.ts';
import { isUrl } from '../host/http/url.ts';
import { fileKind, identityAt, realPath, regularFilesIn } from '../host/paths.ts';
import type { BackingPolicy, NamedFile, NamingImage } from './backing-policy.ts';
import { openImageFile } from './image-file.ts';
import { formatByName } from './registry.ts';

/** Files of one folder whose headers are read. */
const MOST_FILES = 1000;
const SNAPSHOT_FOLDER = 'Snapshots';

/** null if the image names its parent. @throws ImgfuseError missing */
export function searchParent(
  image: NamingImage,
  { format, identity, search }: BackingReference,
  policy: BackingPolicy,
): NamedFile | null {
  if (search === undefined || format === undefined) return null;
  return findParent(image, search, formatByName(format), identity ?? { word: '', values: [] }, policy);
}

/**
 * The file that the image means. If several have the right identity, as copies do, the one in the state that the image was
 * made on comes first. Nothing but the user tells two of those apart: another program may have written to one and left its identity.
 * @param wanted of that state @throws ImgfuseError missing, usage: there are two
 */
function findParent(
  image: NamingImage,
  search: ParentSearch,
  format: ImageFormat,
  wanted: ParentIdentity,
  { allowed }: BackingPolicy,
): NamedFile {
  let meant: string | null = null;
  let second: string | null = null;
  const folders = isUrl(image.name) ? [] : foldersOf(image);
  const { directories, files: named } = placesOf(allowed);
  for (const file of new Set([...named, ...filesIn([...folders, ...directories], format)])) {
    const identity = imageIdentityAt(file, format);
    if (identity === undefined || !search.matches(identity)) continue;
    if (!isMeant(wanted, identity)) second ??= file;
    else if (named.includes(file)) return { name: file, path: file };
    else if (meant === null) meant = file;
    else if (!leadToOneFile(meant, file)) throw twoParents(image, search, format, [meant, file]);
  }
  const chosen = meant ?? second;
  if (chosen !== null) return { name: chosen, path: chosen };
  const found =
    folders.length === 0 ? 'no folder is searched' : `no .${format.name} file in ${folders.join(' and ')} is that`;
  throw new ImgfuseError(
    'missing',
    `the backing file of ${image.path} is ${format.title} ${search.what}, and ${found}; put it there, or ` +
      'name it with --allow-backing FILE',
    { path: image.path },
  );
}

function leadToOneFile(one: string, other: string): boolean {
  const [first, second] = [identityAt(one), identityAt(other)];
  return first !== null && second !== null && isSameFile(first, second);
}

function twoParents(
  image: NamingImage,
  search: ParentSearch,
  format: ImageFormat,
  [one, other]: readonly [string, string],
): ImgfuseError {
  return new ImgfuseError(
    'usage',
    `the backing file of ${image.path} is ${format.title} ${search.what}, which both ${one} and ${other} are; name the right one with ` +
      '--allow-backing FILE, or put the other one elsewhere',
    { path: image.path },
  );
}

/** Whether the image at a path is the one that a reference means, as far as its header says. */
export function isParentAt(path: string, { format, identity }: BackingReference): boolean {
  if (format === undefined || identity === undefined || isUrl(path)) return false;
  const found = imageIdentityAt(path, formatByName(format));
  return found !== undefined && isMeant(identity, found);
}

function foldersOf(image: NamingImage): string[] {
  const own = path.dirname(realPath(image.path));
  return path.basename(own) === SNAPSHOT_FOLDER ? [own, path.dirname(own)] : [own];
}

function placesOf(allowed: readonly string[]): { readonly directories: string[]; readonly files: string[] } {
  const places = allowed.filter((place) => !isUrl(place)).map((place) => realPath(place));
  const those = (kind: string): string[] => places.filter((place) => fileKind(place) === kind);
  return { directories: those('directory'), files: those('file') };
}

function filesIn(folders: readonly string[], format: ImageFormat): string[] {
  return [...new Set(folders)].flatMap((folder) => regularFilesIn(folder, `.${format.name}`, MOST_FILES));
}

/** undefined for a file that is no image of the format, or cannot be read. */
function imageIdentityAt(file: string, format: ImageFormat): string | undefined {
  try {
    const opened = openImageFile(file, true, 'image');
    return closingAfter(
      () => [opened],
      () => format.inspect(opened).identity,
    );
  } catch (error) {
    if (error instanceof ImgfuseError) return undefined;
    throw error;
  }
}
