// The file names of internal snapshots, in snapshots/. A snapshot is found by its id, and by its name where that is no other one's id.
// Invariant: no two snapshots have the same file name, whatever the image says, and each name is one that a file can have.

import { bytesOfName, escapedByte } from '../bytes/names.ts';
import type { ReadableSnapshot } from '../disk/index.ts';

const SUFFIX = '.raw';
/** NAME_MAX, in bytes */
const LONGEST_NAME = 255;
/** What no file name can have, what a terminal would obey, bytes that are not UTF-8 (bytes/names.ts), and the mark of an escape. */
const ESCAPED = /[\p{Cc}\p{Cs}/%]/u;

/** Both give positions in the list of the image. */
export interface SnapshotNames {
  /** in the order of the image; a snapshot whose id and name are both taken, or too long, is not in it */
  readonly listed: ReadonlyMap<string, number>;
  /** the names of `listed`, and the file name of every id */
  readonly found: ReadonlyMap<string, number>;
}

type Named = Pick<ReadableSnapshot, 'id' | 'name'>;

/** A snapshot is listed by its name, or by its id if the name is empty, too long, or not its own. */
export function nameSnapshots(snapshots: readonly Named[]): SnapshotNames {
  const found = new Map<string, number>();
  for (const [position, { id }] of snapshots.entries()) {
    const file = fileNameOf(id);
    if (file !== null && !found.has(file)) found.set(file, position);
  }
  const listed = new Map<string, number>();
  for (const [position, { id, name }] of snapshots.entries()) {
    const file = [fileNameOf(name), fileNameOf(id)].find((each) => {
      if (each === null || listed.has(each)) return false;
      return (found.get(each) ?? position) === position;
    });
    if (file === undefined || file === null) continue;
    listed.set(file, position);
    found.set(file, position);
  }
  return { listed, found };
}

/** A name or an id as a file name: what a file name cannot have is "%" and two hexadecimal digits. Null if it is empty or too long. */
function fileNameOf(text: string): string | null {
  if (text === '' || text.length > LONGEST_NAME) return null;
  const file = `${ESCAPED.test(text) ? escapeName(text) : text}${SUFFIX}`;
  return Buffer.byteLength(file) > LONGEST_NAME ? null : file;
}

function escapeName(text: string): string {
  let escaped = '';
  for (const character of text) {
    // thousands of hostile names: what is too long already need not be made longer
    if (escaped.length > LONGEST_NAME) break;
    escaped += ESCAPED.test(character) ? percentEscape(character) : character;
  }
  return escaped;
}

function escapeOf(byte: number): string {
  return byte < 16 ? `%0${byte.toString(16).toUpperCase()}` : `%${byte.toString(16).toUpperCase()}`;
}

function percentEscape(character: string): string {
  const byte = escapedByte(character);
  return byte === null ? Array.from(bytesOfName(character), escapeOf).join('') : escapeOf(byte);
}
