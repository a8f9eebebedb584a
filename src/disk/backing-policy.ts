// Which backing files and other files of an image may be opened. An image comes from anybody, and so do the names in it: a name
// may lead to /etc/passwd, to a pipe, to the image itself, or be a URL. Regular files are opened only in the image's own
// directory or in one that the user allowed; block devices and URLs only if the user allowed them. A backing file is opened
// read-only, and its format is never guessed to be raw.

import * as path from 'node:path';
import { bytesOfName } from '../bytes/names.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { ExtentRole } from '../format/image-format.ts';
import { workingDirectory } from '../host/canonical-path.ts';
import { folderOfUrl, isBelowUrl, isUrl, parseUrl } from '../host/http/url.ts';
import { blockDeviceNumber, fileKind, isRegularFile, realPath, realPathSoFar } from '../host/paths.ts';
import { hasProtocol, meaningOfName } from './backing-name.ts';

/** Images in a chain at most. */
export const MAX_CHAIN_DEPTH = 32;
/** Longest backing file name in bytes, from the largest of the formats. */
const MAX_NAME_BYTES = 4095;

export interface BackingPolicy {
  /**
   * absolute directories, and URLs, in or below which any image of the chain may lie; files that may be one; block devices
   * that may be backing files
   */
  readonly allowed: readonly string[];
}

/** An image that names other files. */
export interface NamingImage {
  /** as it was found, symbolic links and all: relative names count from the directory of this name */
  readonly name: string;
  /** of the file that was opened: it lies in the image's own directory */
  readonly path: string;
}

/** A backing file that an image names, and that may be opened. */
export interface NamedFile {
  /** as the image names it: an absolute path with its symbolic links, or a URL */
  readonly name: string;
  /** without symbolic links, for opening: nobody can make it another file meanwhile */
  readonly path: string;
  /** the format that a json: name says */
  readonly format?: string | undefined;
  /** number of the block device; absent for a file and a URL */
  readonly device?: number;
}

/**
 * What an image that was found by `imageName` means by the backing file name `name`: an absolute path, a URL, or the name
 * itself if it is neither (nbd:, json:). A name below a URL is a URL. Nothing is checked.
 */
export function locateBacking(imageName: string, name: string): string {
  if (hasProtocol(name)) return name;
  if (!isUrl(imageName)) return locateFile(imageName, name);
  return URL.canParse(name, imageName) ? new URL(name, imageName).href : name;
}

/**
 * As in QEMU: the directory of the image's name, then the name. ".." stays in it, because the component before it may be a
 * symbolic link, and only the kernel knows where that leads.
 */
export function locateFile(imageName: string, name: string): string {
  const joined = path.isAbsolute(name) ? name : `${path.dirname(imageName)}/${name}`;
  const absolute = path.isAbsolute(joined) ? joined : `${workingDirectory()}/${joined}`;
  const parts = absolute.split('/').filter((part) => part !== '' && part !== '.');
  return `/${parts.join('/')}`;
}

/**
 * The backing file that `image` names `name`, if it may be opened.
 * @throws ImgfuseError permission, missing, usage
 */
export function resolveBacking(image: NamingImage, name: string, policy: BackingPolicy): NamedFile {
  checkName('backing file', image.name, name);
  const meaning = meaningOfName(name);
  if (meaning.kind === 'other') throw refusal(image.name, `its backing file '${name}' ${meaning.why}`);
  if (isUrl(image.name) || meaning.kind === 'url') {
    if (hasProtocol(name) && meaning.kind === 'file') {
      throw refusal(
        image.name,
        `its backing file '${name}' is a file of this machine, which a remote image may not name`,
      );
    }
    const url = resolveUrl(image.name, locateBacking(image.name, name), policy);
    return { name: url, path: url };
  }
  const located = locateFile(image.name, meaning.path);
  return { name: located, format: meaning.format, ...resolvePath(image, located, policy) };
}

/** What a sentence calls another file of an image. */
export const EXTENT_WORDS = { data: 'data file', extent: 'extent' } as const satisfies Record<ExtentRole, string>;

/**
 * The other file of its own that `image` names `name`, if it may be opened: a plain file, or a directory of files where one is due.
 * @returns its absolute path without symbolic links
 * @throws ImgfuseError permission, missing, usage
 */
export function resolveExtent(
  image: NamingImage,
  name: string,
  role: ExtentRole,
  policy: BackingPolicy,
  kind: FileKind = 'regular file',
): string {
  const what = EXTENT_WORDS[role];
  checkName(what, image.name, name);
  if (hasProtocol(name))
    throw refusal(image.name, `its ${what} '${name}' is no plain file, and nothing else is opened`);
  if (isUrl(image.name)) {
    const why = `its ${what} '${name}' would be read from the server, too, and only images of one file are`;
    throw refusal(image.name, `${why}; copy all of its files here`);
  }
  const wanted = locateFile(image.name, name);
  return checkFile(what, image, realPathOf(what, image, wanted, policy), policy, kind);
}

/** The advice if a file that an image refers to is gone. */
const CURES = {
  'backing file': 'put it back, or name the place where it is now with imgfuse rebase -u',
  // QEMU looks in the working directory of its process instead
  'data file': "put it back; a relative name counts from the image's own directory",
  extent: "put it back; a relative name counts from the image's own directory",
} as const;

function checkName(what: keyof typeof CURES, imageName: string, name: string): void {
  if (name.includes('\0') || bytesOfName(name).length > MAX_NAME_BYTES)
    throw refusal(imageName, `its ${what} name is no file name`);
}

function resolveUrl(imageName: string, located: string, policy: BackingPolicy): string {
  let url: URL;
  try {
    url = parseUrl(located);
  } catch (error) {
    throw refusal(imageName, `of its backing file: ${(error as Error).message}`);
  }
  const places = allowedUrls(policy.allowed).map((place) => new URL(place));
  // as a file may lie in the directory of its overlay
  if (isUrl(imageName)) places.push(folderOfUrl(new URL(imageName)));
  if (places.some((place) => isBelowUrl(url, place))) return url.href;
  throw refusal(
    imageName,
    `its backing file is to be read from ${url.href}, and nobody allowed that; add --allow-backing ${url.href}`,
  );
}

/** The URLs among what the user allowed. */
export function allowedUrls(allowed: readonly string[]): string[] {
  return allowed.filter(isUrl).map((place) => parseUrl(place).href);
}

/** The file of this machine that a backing file name stands for, and its device number if it is a device. */
function resolvePath(
  image: NamingImage,
  located: string,
  policy: BackingPolicy,
): { readonly path: string; readonly device?: number } {
  const real = realPathOf('backing file', image, located, policy);
  const device = blockDeviceNumber(real);
  if (device === null) return { path: checkFile('backing file', image, real, policy) };
  if (isNamed(real, policy)) return { path: real, device };
  throw refusal(
    image.name,
    `its backing file ${real} is a block device, and nobody allowed this one; add --allow-backing ${real}`,
  );
}

/** A file that may not be opened is refused in the same words whether it is there or not: an image must not find that out. */
function realPathOf(what: keyof typeof CURES, image: NamingImage, wanted: string, policy: BackingPolicy): string {
  try {
    return realPath(wanted);
  } catch (error) {
    assertPlace(what, image, realPathSoFar(wanted), policy);
    throw new ImgfuseError(
      'missing',
      `the ${what} ${wanted} of ${image.name} does not exist; ${CURES[what]}`,
      { path: wanted },
      // it would say the same once more
      error instanceof ImgfuseError && error.kind === 'missing' ? undefined : error,
    );
  }
}

/** What may be opened: nothing else is, because opening alone has effects on some devices. */
type FileKind = 'regular file' | 'directory';

/** @param real without symbolic links @returns the same, if it may be opened and is what it has to be */
function checkFile(
  what: keyof typeof CURES,
  image: NamingImage,
  real: string,
  policy: BackingPolicy,
  kind: FileKind = 'regular file',
): string {
  assertPlace(what, image, real, policy);
  if (kind === 'regular file' ? isRegularFile(real) : fileKind(real) === kind) return real;
  throw refusal(
    image.name,
    `its ${what} ${real} is no ${kind}, and nothing else is opened; put a ${kind} with its content in its place`,
  );
}

function assertPlace(what: keyof typeof CURES, image: NamingImage, real: string, policy: BackingPolicy): void {
  const allowed = [path.dirname(realPath(image.path)), ...allowedPaths(policy)];
  if (allowed.some((entry) => isInside(real, entry)) || isNamed(real, policy)) return;
  throw refusal(
    image.name,
    `its ${what} ${real} lies outside the image's own directory; add --allow-backing ${path.dirname(real)}`,
  );
}

/** Paths among what the user allowed, without symbolic links. */
function allowedPaths({ allowed }: BackingPolicy): string[] {
  return allowed.filter((entry) => !isUrl(entry)).map((entry) => realPath(entry));
}

/** Whether the user allowed this very file, and not a directory that it lies in. */
function isNamed(real: string, policy: BackingPolicy): boolean {
  return allowedPaths(policy).includes(real);
}

function isInside(file: string, directory: string): boolean {
  const relative = path.relative(directory, file);
  return relative !== '' && relative !== '..' && !relative.startsWith('../') && !path.isAbsolute(relative);
}

function refusal(imageName: string, why: string): ImgfuseError {
  return new ImgfuseError('permission', `${imageName} is not opened: ${why}`, { path: imageName });
}
