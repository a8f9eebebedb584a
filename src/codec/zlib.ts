// Decompresses a zlib stream (RFC 1950) of known length with node:zlib.

import { inflateSync } from 'node:zlib';
import { DamagedData } from './damaged-data.ts';

/**
 * @param source begins with the stream; bytes after its end are ignored
 * @returns exactly `length` bytes
 * @throws DamagedData if the stream is damaged or has another length
 */
export function decompressZlib(source: Uint8Array, length: number): Uint8Array {
  let output: Uint8Array;
  try {
    // a chunk that is larger than the output saves a second one
    output = inflateSync(source, { chunkSize: length + 64, maxOutputLength: length });
  } catch (error) {
    throw new DamagedData(libraryDamage(error, length));
  }
  if (output.length === length) return output;
  throw new DamagedData(`decompresses to ${output.length} bytes instead of ${length}`);
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
