// The parent locator, the metadata item by which a child knows its parent. Little-endian, offsets from the start of the item:
//
//   0 LocatorType, a GUID   18 KeyValueCount u16   20 entries of 12 bytes: key offset u32, value offset u32, key and value length u16
//
// Keys and values are UTF-16LE without NUL. The linkage is the parent's DataWriteGuid; the names are only hints. The item comes from
// anybody, so a value is decoded only under a key that is known. A linkage is changed in its place, by a text of the same length.

import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { uuidBytes } from '../../guid.ts';
import { fromWindowsPath, withoutDot } from '../../windows-path.ts';
import { guidAt, type Structure } from './fields.ts';

const LOCATOR_TYPE = 'b04aefb7-d19e-4a81-b789-25b8e9445913';
const COUNT_AT = 18;
const ENTRIES_AT = 20;
const ENTRY_BYTES = 12;
/** Twice what a path of Linux has. */
export const MAX_VALUE_BYTES = 16384;

const LINKAGES = ['parent_linkage', 'parent_linkage2'] as const;
/** In the order in which they are tried. */
const NAMES = ['relative_path', 'volume_path', 'absolute_win32_path'] as const;
const KEYS: readonly string[] = [...LINKAGES, ...NAMES];
const LONGEST_KEY_BYTES = 2 * Math.max(...KEYS.map((key) => key.length));

/** A DataWriteGuid as the locator has it. */
export interface LinkagePlace {
  /** from the start of the item */
  readonly at: number;
  /** bytes of the text, with its braces or without */
  readonly bytes: number;
}

export interface ParentLocator {
  /** DataWriteGuids of the parent: each of them is right */
  readonly linkages: readonly string[];
  /** of each of them */
  readonly linkagePlaces: readonly LinkagePlace[];
  /** as names of this machine, the one that is tried first at the front; one at least */
  readonly names: readonly string[];
}

/** @param item all of it @throws ImgfuseError corrupt, unsupported */
export function parseLocator(file: HostFile, item: Structure): ParentLocator {
  const { path } = file;
  const { bytes, view } = item;
  if (bytes.length < ENTRIES_AT) throw damaged(file, `has ${bytes.length} bytes, and ${ENTRIES_AT} at least`);
  const type = guidAt(bytes, 0);
  if (type !== LOCATOR_TYPE) {
    throw new ImgfuseError(
      'unsupported',
      `${path} names its parent with a locator of the type ${type}, and ${LOCATOR_TYPE} is known; open it with the program that wrote it`,
      { path },
    );
  }
  const count = view.getUint16(COUNT_AT, true);
  if (ENTRIES_AT + count * ENTRY_BYTES > bytes.length) throw damaged(file, `has no room for its ${count} entries`);
  const values = new Map<string, Value>();
  for (let at = ENTRIES_AT; at < ENTRIES_AT + count * ENTRY_BYTES; at += ENTRY_BYTES) addEntry(file, item, at, values);
  const found = LINKAGES.flatMap((key) => values.get(key) ?? []).filter(({ text }) => guidIn(text) !== null);
  if (found.length === 0) throw damaged(file, 'does not say which image the parent is');
  const linkages = found.map(({ text }) => guidIn(text)!);
  const linkagePlaces = found.map(({ at, bytes }) => ({ at, bytes }));
  const paths = NAMES.flatMap((key) => values.get(key)?.text ?? []).map(fromWindowsPath);
  // of a child that was copied together with its parent
  const bare = paths.map((name) => name.replace(/^.*\//, ''));
  const names = [...new Set([...paths, ...bare].map(withoutDot))].filter((name) => name !== '');
  if (names.length === 0) throw damaged(file, 'has no name of the parent');
  return { linkages, linkagePlaces, names };
}

interface Value {
  readonly text: string;
  readonly at: number;
  readonly bytes: number;
}

function addEntry(file: HostFile, { bytes, view }: Structure, at: number, values: Map<string, Value>): void {
  const [keyAt, valueAt] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
  const [keyBytes, valueBytes] = [view.getUint16(at + 8, true), view.getUint16(at + 10, true)];
  if (keyAt + keyBytes > bytes.length || valueAt + valueBytes > bytes.length) {
    throw damaged(file, `has an entry that ends beyond its ${bytes.length} bytes`);
  }
  if (keyBytes > LONGEST_KEY_BYTES) return;
  const key = utf16(bytes, keyAt, keyBytes);
  if (!KEYS.includes(key)) return;
  if (valueBytes > MAX_VALUE_BYTES)
    throw damaged(file, `has ${valueBytes} bytes of ${key}; ${MAX_VALUE_BYTES} are read`);
  if (values.has(key)) throw damaged(file, `has ${key} twice`);
  values.set(key, { text: utf16(bytes, valueAt, valueBytes), at: valueAt, bytes: valueBytes });
}

function utf16(bytes: Uint8Array, start: number, length: number): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, length).toString('utf16le');
  return text.split('\0', 1)[0]!;
}

/** "{GUID}" in capitals or not, without its braces and in lower case; null if it is none. */
function guidIn(value: string): string | null {
  return /^\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?$/.exec(value.toLowerCase())?.[1] ?? null;
}

/** The text of a GUID in so many bytes: as long as the one that it takes the place of. @param guid in lower case, without braces */
export function linkageBytes(guid: string, bytes: number): Uint8Array {
  const braced = Buffer.from(`{${guid}}`, 'utf16le');
  return Uint8Array.from(bytes === braced.length ? braced : Buffer.from(guid, 'utf16le'));
}

/** What a new locator says; names as Windows spells them. */
export interface NewLocator {
  /** the DataWriteGuid of the parent, as guidAt() gives it */
  readonly linkage: string;
  readonly relativePath: string | null;
  readonly absolutePath: string | null;
}

/** All of the item. */
export function serializeLocator({ absolutePath, linkage, relativePath }: NewLocator): Uint8Array {
  const values: readonly (readonly [key: string, value: string | null])[] = [
    [LINKAGES[0], `{${linkage}}`],
    [NAMES[0], relativePath],
    [NAMES[2], absolutePath],
  ];
  const texts = values.filter(([, value]) => value !== null).flat() as string[];
  const parts = texts.map((text) => Buffer.from(text, 'utf16le'));
  const count = parts.length / 2;
  const head = Buffer.alloc(ENTRIES_AT + count * ENTRY_BYTES);
  head.set(uuidBytes(LOCATOR_TYPE));
  head.writeUInt16LE(count, COUNT_AT);
  let end = head.length;
  for (const [i, part] of parts.entries()) {
    const entry = ENTRIES_AT + Math.floor(i / 2) * ENTRY_BYTES;
    head.writeUInt32LE(end, entry + (i % 2) * 4);
    head.writeUInt16LE(part.length, entry + 8 + (i % 2) * 2);
    end += part.length;
  }
  return Uint8Array.from(Buffer.concat([head, ...parts]));
}

function damaged({ path }: HostFile, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${path}: its parent locator ${what}; its disk cannot be read`, { path });
}
