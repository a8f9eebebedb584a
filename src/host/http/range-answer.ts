// Checks that an answer is the range that was asked for, of the version that was opened. Status, Content-Range, encoding and
// validators are judged here and nowhere else, before a byte of the body is used.

import { changed, FetchError } from './fetch-error.ts';

export type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;

/** What tells one version of a remote file from another. */
export interface Version {
  readonly length: number;
  /** value of If-Range: the ETag, or the date where there is no strong one; null: it came in one answer, as a whole */
  readonly ifRange: string | null;
  readonly etag: string | null;
  readonly lastModified: string | null;
}

/** RFC 9110, 8.8.2.2: a date is a strong validator when the answer was made at least a second later. */
const STRONG_DATE_MS = 1000;
const MAX_PAUSE_MS = 10_000;
const PASSING_STATUS = new Set([408, 425, 429, 500, 502, 503, 504]);

/**
 * The version that the first answer, to a request for [0, wanted), belongs to. A file that came as a whole needs nothing that
 * tells its versions apart.
 * @param oldDate Last-Modified of an answer that was there a second before this one was asked for, if there was one
 * @throws FetchError
 */
export function versionOf(status: number, headers: Headers, wanted: number, oldDate: string | null = null): Version {
  if (status === 416) throw new FetchError('usage', 'cannot be used: it is empty');
  const etag = single(headers, 'etag');
  const lastModified = single(headers, 'last-modified');
  const length = status === 200 ? wholeLength(headers, wanted) : firstRange(status, headers, wanted);
  const version = { length, etag, lastModified };
  if (length <= wanted) return { ...version, ifRange: null };
  if (etag !== null && /^"[^"]*"$/.test(etag)) return { ...version, ifRange: etag };
  if (lastModified === null) {
    throw new FetchError(
      'unsupported',
      `cannot be used: its server sends ${etag === null ? 'neither ETag nor Last-Modified' : 'only a weak ETag'}, ` +
        'so a change of the file under the overlay would go unnoticed',
    );
  }
  if (lastModified !== oldDate && !isOldDate(lastModified, single(headers, 'date'))) {
    throw new FetchError(
      'io',
      `cannot be used yet: it was changed at ${lastModified}, too short a time ago to notice a second change; try again`,
      true,
      STRONG_DATE_MS,
    );
  }
  return { ...version, ifRange: lastModified };
}

/** The length of a file that came as a whole, which is right only if the file ends before the range that was asked for. */
function wholeLength(headers: Headers, wanted: number): number {
  assertIdentity(headers);
  const length = Number(single(headers, 'content-length') ?? Number.NaN);
  if (length === 0) throw new FetchError('usage', 'cannot be used: it is empty');
  if (length <= wanted) return length;
  throw new FetchError(
    'unsupported',
    'cannot be used: its server sends the whole file and not the range that was asked for; use a server that supports ' +
      'range requests, or copy the file here',
  );
}

function firstRange(status: number, headers: Headers, wanted: number): number {
  assertPartial(status, headers);
  const { start, end, length } = contentRange(headers);
  if (start !== 0 || end !== Math.min(wanted, length)) throw wrongRange(headers, 0, wanted);
  return length;
}

function isOldDate(lastModified: string, date: string | null): boolean {
  const answeredMs = date === null ? Date.now() : Date.parse(date);
  return answeredMs - Date.parse(lastModified) >= STRONG_DATE_MS;
}

/** A date that stays the same for so long tells versions apart, even if the clocks do not say that it is old. */
export const OLD_DATE_MS = STRONG_DATE_MS;

/** The whole file, of the version that is open, in answer to a request with If-Range: its server takes this for another version. */
export function ignoresIfRange(status: number, headers: Headers, version: Version): boolean {
  return (
    status === 200 &&
    single(headers, 'etag') === version.etag &&
    single(headers, 'last-modified') === version.lastModified
  );
}

/**
 * Throws FetchError unless the body that follows is [start, end) of `version`.
 * @param isConditional If-Range was sent, so that a range is of this version and its date need not be repeated
 */
export function assertRange(
  status: number,
  headers: Headers,
  { start, end, isConditional }: { readonly start: number; readonly end: number; readonly isConditional: boolean },
  version: Version,
): void {
  if (status === 200) {
    assertSameVersion(headers, version, false);
    if (version.ifRange === null && wholeLength(headers, end) === version.length) return;
    throw new FetchError('io', 'cannot be read: its server sends the whole file and not the range that was asked for');
  }
  if (status === 416) throw changed('it is shorter');
  assertPartial(status, headers);
  const range = contentRange(headers);
  if (range.length !== version.length) throw changed(`${range.length} bytes instead of ${version.length}`);
  assertSameVersion(headers, version, isConditional);
  if (range.start !== start || range.end !== end) throw wrongRange(headers, start, end);
}

function assertSameVersion(headers: Headers, version: Version, isConditional: boolean): void {
  const etag = single(headers, 'etag');
  if (etag !== version.etag) throw changed(`its ETag is ${etag} and was ${version.etag}`);
  if (version.ifRange !== null && version.ifRange !== version.lastModified) return;
  const lastModified = single(headers, 'last-modified');
  if (lastModified !== version.lastModified && !(isConditional && lastModified === null)) {
    throw changed(`it was last modified ${lastModified}, and ${version.lastModified} before`);
  }
}

function assertPartial(status: number, headers: Headers): void {
  if (status !== 206) throw statusError(status, headers);
  assertIdentity(headers);
}

function assertIdentity(headers: Headers): void {
  const encoding = single(headers, 'content-encoding') ?? 'identity';
  if (encoding.toLowerCase() !== 'identity') {
    throw new FetchError(
      'unsupported',
      `cannot be used: its server encodes it (Content-Encoding: ${encoding}) although it was asked not to`,
    );
  }
}

function statusError(status: number, headers: Headers): FetchError {
  const answer = `its server answers ${status}`;
  if (PASSING_STATUS.has(status)) {
    return new FetchError('io', `cannot be read: ${answer}`, true, pauseOf(single(headers, 'retry-after')));
  }
  if (status === 404 || status === 410) return new FetchError('missing', `does not exist: ${answer}`);
  if (status === 401 || status === 403) return new FetchError('permission', `may not be read: ${answer}`);
  return new FetchError('io', `cannot be read: ${answer}`);
}

/** Retry-After as seconds or a date; what is too long is cut. */
function pauseOf(text: string | null): number {
  if (text === null) return 0;
  const ms = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return ms > 0 ? Math.min(ms, MAX_PAUSE_MS) : 0;
}

/** @returns `end` is exclusive */
function contentRange(headers: Headers): { start: number; end: number; length: number } {
  const text = single(headers, 'content-range') ?? '';
  const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(text) ?? [];
  const [start, end, length] = [Number(first), Number(last) + 1, Number(total)];
  if (Number.isSafeInteger(length) && start < end && end <= length) return { start, end, length };
  throw new FetchError(
    'io',
    `cannot be used: its server sends part of it with the Content-Range '${text.slice(0, 100)}', which does not say which`,
  );
}

function wrongRange(headers: Headers, start: number, end: number): FetchError {
  return new FetchError(
    'io',
    `cannot be read: bytes ${start} to ${end - 1} were asked for, and its server sends '${single(headers, 'content-range')}'`,
  );
}

/** @throws FetchError for a header that is sent twice: nobody knows which of them counts */
export function single(headers: Headers, name: string): string | null {
  const value = headers[name];
  if (value === undefined) return null;
  if (typeof value === 'string') return value.trim();
  throw new FetchError('io', `cannot be used: its server sends the header ${name} more than once`);
}
