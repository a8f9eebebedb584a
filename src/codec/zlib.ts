// Decompresses a zlib stream (RFC 1950) of known length, or with a known limit, with node:zlib.

import { inflateRawSync, inflateSync } from 'node:zlib';
import { DamagedData } from './damaged-data.ts';

/** A byte of deflate gives no more than that. */
const MOST_RATIO = 1032;

/**
 * @param source begins with the stream; bytes after its end are ignored
 * @returns exactly `length` bytes
 * @throws DamagedData if the stream is damaged or has another length
 */
export function decompressZlib(source: Uint8Array, length: number): Uint8Array {
  const output = inflateAtMost(source, length);
  if (output.length === length) return output;
  throw new DamagedData(`decompresses to ${output.length} bytes instead of ${length}`);
}

/**
 * @param source begins with the stream; bytes after its end are ignored
 * @param isRaw it is deflate alone (RFC 1951), without the head and the sum of zlib
 * @throws DamagedData if the stream is damaged or has more than `limit` bytes
 */
export function inflateAtMost(source: Uint8Array, limit: number, isRaw = false): Uint8Array {
  // a chunk that is larger than the output saves a second one
  const options = { chunkSize: Math.min(limit, MOST_RATIO * source.length) + 64, maxOutputLength: limit };
  try {
    return isRaw ? inflateRawSync(source, options) : inflateSync(source, options);
  } catch (error) {
    throw new DamagedData(libraryDamage(error, limit));
  }
}

/** What an error of node:zlib says of the data. Throws any other error, which is a bug. */
export function libraryDamage(error: unknown, limit: number): string {
  if (!isLibraryError(error)) throw error;
  if (error.code === 'ERR_BUFFER_TOO_LARGE') return `decompresses to more than ${limit} bytes`;
  return `does not decompress: ${error.message}`;
}

/** The data is at fault, as node:zlib says it; anything else is a bug. */
export function isLibraryError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).code === 'string';
}
