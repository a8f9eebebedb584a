// The overlay of a mount: a file that takes all changes, while the image that the user named is its backing file and is only
// read. Invariants: an existing file is taken only if it is an overlay on that very image, and no other file is changed; a new
// one gets its name when it is complete and open; a temporary one never gets a name, so nothing of it outlives its process.

import { basename, dirname } from 'node:path';
import { closeQuietly } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import { endsOf } from '../format/file-ends.ts';
import type { BackingReference } from '../format/image-format.ts';
import { isSameFile } from '../host/file-identity.ts';
import type { HostFile } from '../host/host-file.ts';
import { isUrl, parseUrl } from '../host/http/url.ts';
import type { LockMode } from '../host/image-locks.ts';
import { NewFile } from '../host/new-file.ts';
import { fileKind, identityAt } from '../host/paths.ts';
import { hasProtocol, meaningOfName } from './backing-name.ts';
import { locateBacking, locateFile, type NamingImage } from './backing-policy.ts';
import { openImageFile } from './image-file.ts';
import { inspectDisk } from './info.ts';
import { recognizedName } from './probe.ts';
import { formatByName, overlayFormat } from './registry.ts';

/** The image below an overlay, as the user named it. */
export interface OverlaidImage {
  /** an absolute path, or a URL */
  readonly image: string;
  /** the path of the overlay is a directory, and the overlay a file in it that has no name */
  readonly isTemporary: boolean;
}

export interface MakeOverlayOptions {
  readonly readOnly: boolean;
  /** of the image below; absent: probed */
  readonly format: string | undefined;
  /** taken on the image below */
  readonly locks: LockMode | undefined;
  readonly log: ((sentence: string) => void) | undefined;
}

/**
 * A new, empty overlay for `path`; null if there is one already.
 * @throws ImgfuseError usage: what is there is no overlay; read-only: there is none, and it may not be made
 */
export function makeOverlay(path: string, base: OverlaidImage, options: MakeOverlayOptions): NewFile | null {
  if (!base.isTemporary && isThere(path, base)) return null;
  if (options.readOnly) {
    const cure = 'mount the image without it, or leave out ro';
    throw new ImgfuseError('usage', `the overlay ${path} does not exist, and a read-only mount makes none; ${cure}`, {
      path,
    });
  }
  const { format, virtualSize } = inspectDisk(base.image, options);
  const made = base.isTemporary ? NewFile.temporary(path) : NewFile.create(path);
  try {
    overlayFormat.create!(made.file, {
      size: virtualSize,
      options: new Map(),
      backing: { name: nameFrom(base.isTemporary ? '' : path, base.image), format },
      log: options.log,
    });
    return made;
  } catch (error) {
    closeQuietly([{ close: () => made.discard() }, made.file]);
    throw error;
  }
}

/** How an overlay names the image: by its name alone in the same directory, so that both can be moved together. */
function nameFrom(overlay: string, image: string): string {
  if (isUrl(image)) return parseUrl(image).href;
  const name = basename(image);
  if (dirname(overlay) !== dirname(image)) return image;
  return hasProtocol(name) ? `./${name}` : name;
}

/** Looks at what is there, without opening it for writing. */
function isThere(path: string, { image }: OverlaidImage): boolean {
  const kind = fileKind(path);
  if (kind === 'missing') return false;
  const refused = (what: string): ImgfuseError =>
    new ImgfuseError('usage', `the overlay ${path} ${what}; name another file`, { path });
  if (kind !== 'file') throw refused(`is a ${kind}, and an overlay is a regular file`);
  const identity = identityAt(path);
  const below = isUrl(image) ? null : identityAt(image);
  if (identity !== null && below !== null && isSameFile(identity, below)) throw refused('is the image itself');
  const file = openImageFile(path, true);
  try {
    const found = recognizedName(endsOf(file));
    if (found === overlayFormat.title) return true;
    throw refused(`is there already and is ${found ?? 'no image of a known format'}; it is not overwritten`);
  } finally {
    closeQuietly([file]);
  }
}

/**
 * An overlay shows the disk of the image that it was made on, and of no other.
 * @param reference as the overlay stores it @param base the image that the user named, open @param format as the user named it
 * @throws ImgfuseError usage
 */
export function assertIsBase(
  overlay: NamingImage,
  reference: BackingReference,
  base: HostFile,
  format: string | undefined,
): void {
  const { path } = overlay;
  if (!leadsTo(overlay, reference.name, base)) {
    const located = locateBacking(overlay.name, reference.name);
    throw new ImgfuseError(
      'usage',
      `${path} is an overlay on ${located} and not on ${base.path}, so it would show a mixture of two disks; mount that image ` +
        `with it, name another overlay, or, if that image was moved, tell the overlay with imgfuse rebase -u -b ${base.path} ${path}`,
      { path },
    );
  }
  if (format === undefined || reference.format === undefined) return;
  if (formatByName(format).name === reference.format) return;
  throw new ImgfuseError(
    'usage',
    `${path} says that ${base.path} is ${reference.format}, and --format says ${format}; leave out --format`,
    { path },
  );
}

/** Times of files that are changed together, such as by a commit, are closer than this. */
const SAME_TIME_MS = 2000;

/** An overlay keeps only what was written to it: after a change below it, it shows a mixture. Null: no sign of one. */
export function laterChange(overlay: HostFile, base: HostFile): string | null {
  const [kept, below] = [overlay.modifiedMs(), base.modifiedMs()];
  if (kept === null || below === null || below < kept + SAME_TIME_MS) return null;
  const [first, second] = [kept, below].map((time) => new Date(time).toISOString());
  return (
    `${base.path} was written at ${second}, after its overlay ${overlay.path} at ${first}: unless that was a commit of this ` +
    'overlay, or the file was only copied, the disk is a mixture of two states'
  );
}

/** @throws ImgfuseError usage: an overlay must have an image below it */
export function noBase(path: string, image: string): ImgfuseError {
  const what = `${path} has no backing file, so it is no overlay on ${image}; name another file`;
  return new ImgfuseError('usage', what, { path });
}

function leadsTo(overlay: NamingImage, name: string, base: HostFile): boolean {
  const meaning = meaningOfName(name);
  if (meaning.kind === 'other') return false;
  if (meaning.kind === 'url') return isUrl(base.path) && parseUrl(meaning.url).href === base.path;
  const found = isUrl(overlay.name) ? null : identityAt(locateFile(overlay.name, meaning.path));
  return found !== null && isSameFile(found, base.identity());
}
