// The parent locator, the metadata item by which a child knows its parent. Little-endian, offsets from the start of the item:
//
//   0 LocatorType, a GUID   18 KeyValueCount u16   20 entries of 12 bytes: key offset u32, value offset u32, key and value length u16
//
// Keys and values are UTF-16LE without NUL. The linkage is the parent's DataWriteGuid; the names are only hints. The item comes from
// anybody, so a value is decoded only under a key that is known.

import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { BackingReference } from '../../backing-reference.ts';
import { fromWindowsPath, withoutDot } from '../../windows-path.ts';
import { guidAt, type Structure } from './fields.ts';

const LOCATOR_TYPE = 'b04aefb7-d19e-4a81-b789-25b8e9445913';
const COUNT_AT = 18;
const ENTRIES_AT = 20;
const ENTRY_BYTES = 12;
/** Twice what a path of Linux has. */
const MAX_VALUE_BYTES = 16384;

const LINKAGES = ['parent_linkage', 'parent_linkage2'] as const;
/** In the order in which they are tried. */
const NAMES = ['relative_path', 'volume_path', 'absolute_win32_path'] as const;
const KEYS: readonly string[] = [...LINKAGES, ...NAMES];
const LONGEST_KEY_BYTES = 2 * Math.max(...KEYS.map((key) => key.length));

export interface ParentLocator {
  /** DataWriteGuids of the parent: each of them is right */
  readonly linkages: readonly string[];
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
  const values = new Map<string, string>();
  for (let at = ENTRIES_AT; at < ENTRIES_AT + count * ENTRY_BYTES; at += ENTRY_BYTES) addEntry(file, item, at, values);
  const linkages = LINKAGES.flatMap((key) => guidIn(values.get(key)));
  if (linkages.length === 0) throw damaged(file, 'does not say which image the parent is');
  const paths = NAMES.flatMap((key) => values.get(key) ?? []).map(fromWindowsPath);
  // of a child that was copied together with its parent
  const bare = paths.map((name) => name.replace(/^.*\//, ''));
  const names = [...new Set([...paths, ...bare].map(withoutDot))].filter((name) => name !== '');
  if (names.length === 0) throw damaged(file, 'has no name of the parent');
  return { linkages, names };
}

export function referenceTo({ linkages, names }: ParentLocator): BackingReference {
  const [name, ...otherNames] = names;
  return { name: name!, otherNames, format: 'vhdx', identity: { word: 'data write GUID', values: linkages } };
}

function addEntry(file: HostFile, { bytes, view }: Structure, at: number, values: Map<string, string>): void {
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
  values.set(key, utf16(bytes, valueAt, valueBytes));
}

function utf16(bytes: Uint8Array, start: number, length: number): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, length).toString('utf16le');
  return text.split('\0', 1)[0]!;
}

/** "{GUID}" in capitals or not, without its braces and in lower case. */
function guidIn(value: string | undefined): string[] {
  const found = /^\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?$/.exec(value?.toLowerCase() ?? '');
  return found === null ? [] : [found[1]!];
}

function damaged({ path }: HostFile, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${path}: its parent locator ${what}; its disk cannot be read`, { path });
}
