// URLs of images: which are taken at all, and whether one lies below another. Pure; the policy that uses it for names
// found in images is disk/backing-policy.ts, and redirects obey the same rule.

import { ImgfuseError } from '../../errors/index.ts';

const MAX_URL_BYTES = 4095;

/** Whether a name is meant as an http or https URL. No other `scheme:` is an image here. */
export function isUrl(name: string): boolean {
  return /^https?:/i.test(name);
}

/** @throws ImgfuseError usage for a text that is no URL of an image, or has a password in it */
export function parseUrl(text: string): URL {
  // the parser drops line breaks and tabs, which the policy would then not see, and replaces bytes that are not UTF-8
  const hasControl = [...text].some((character) => character <= ' ' || character === '\x7f');
  const url =
    hasControl || !text.isWellFormed() || Buffer.byteLength(text) > MAX_URL_BYTES || !URL.canParse(text)
      ? null
      : new URL(text);
  if (url === null || !/^https?:\/\//i.test(text)) {
    throw new ImgfuseError('usage', `'${text.slice(0, 200)}' is no http or https URL`);
  }
  if (url.username !== '' || url.password !== '') {
    throw new ImgfuseError(
      'usage',
      `the URL of ${url.host} has a user name or a password in it, which would be stored and logged; it is not taken`,
    );
  }
  if (url.hash !== '') throw new ImgfuseError('usage', `the URL ${text} has a fragment (#), which names no file`);
  return url;
}

/** `url` is `place` itself, or lies below it as a folder; the query of a folder is not looked at. */
export function isBelowUrl(url: URL, place: URL): boolean {
  if (url.origin !== place.origin) return false;
  if (url.pathname === place.pathname) return place.search === '' || url.search === place.search;
  // an encoded slash is a slash to some servers, and then the path is another one than it looks
  if (place.search !== '' || /%2f|%5c/i.test(url.pathname)) return false;
  return url.pathname.startsWith(place.pathname.endsWith('/') ? place.pathname : `${place.pathname}/`);
}

/** The folder of a URL: its path up to the last slash. */
export function folderOfUrl(url: URL): URL {
  return new URL('.', url);
}
