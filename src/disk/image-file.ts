// The file of an image by its name: a path, or a URL that somebody has allowed (backing-policy.ts, or the user by naming it).

import { ImgfuseError } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';
import { HttpHostFile } from '../host/http/http-file.ts';
import { HTTP_LIMITS } from '../host/http/limits.ts';
import { isUrl, parseUrl } from '../host/http/url.ts';
import { PosixHostFile } from '../host/posix-file.ts';

/**
 * Where the name of a file comes from: the user; an image, which may come from anybody; or an image, and the user has allowed the
 * block device with this number.
 */
export type NamedBy = 'user' | 'image' | { readonly device: number };

/**
 * @param namedBy only a name from the user may be a block device
 * @param allowedUrls URLs that a redirect may lead to or below, beside its own origin
 * @param answerMs of HttpLimits
 * @throws ImgfuseError missing, permission, read-only, usage, io
 */
export function openImageFile(
  name: string,
  readOnly: boolean,
  namedBy: NamedBy = 'user',
  allowedUrls: readonly string[] = [],
  answerMs: number = HTTP_LIMITS.answerMs,
): HostFile {
  if (!isUrl(name)) return openPath(name, readOnly, namedBy);
  if (!readOnly) {
    throw new ImgfuseError(
      'read-only',
      `${name} is read over HTTP and cannot be changed; mount it with -o ro, or with -o overlay=FILE, which takes the changes`,
      { path: name },
    );
  }
  return HttpHostFile.open(parseUrl(name).href, allowedUrls, { ...HTTP_LIMITS, answerMs });
}

function openPath(path: string, readOnly: boolean, namedBy: NamedBy): HostFile {
  if (namedBy === 'user') return PosixHostFile.open(path, readOnly);
  if (namedBy === 'image') return PosixHostFile.openRegular(path, readOnly);
  return PosixHostFile.openDevice(path, readOnly, namedBy.device);
}
