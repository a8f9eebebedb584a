// The descriptor of a VMDK image: text lines that say who its parent is and which extents, one behind the other, are the disk.
//
//   CID=1fa2b3c4                          changes when the content changes; a child stores that of its parent
//   parentCID=ffffffff                    none
//   RW 4192256 SPARSE "disk-s001.vmdk"    access, sectors of the disk, kind, file, [sector of the file]
//   ddb.uuid.image="..."                  VirtualBox knows images by UUIDs
//
// A line that begins like an extent and is none would move all that follows on the disk, so it is refused (R10).

import { nameOfBytes } from '../../../bytes/names.ts';
import { MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';

/** The kinds of extents that are opened here. */
const EXTENT_TYPES = ['SPARSE', 'FLAT', 'ZERO', 'VMFS', 'VMFSSPARSE', 'SESPARSE'] as const;
export const MAX_EXTENTS = 4096;
export const NO_CID = 'ffffffff';
export const NO_UUID = '00000000-0000-0000-0000-000000000000';

/** Text that is one character a byte: positions in it are positions in the file. */
export type LatinText = string;

export interface ExtentLine {
  readonly access: 'RW' | 'RDONLY' | 'NOACCESS';
  /** bytes of the disk */
  readonly length: number;
  readonly type: (typeof EXTENT_TYPES)[number];
  /** null: a ZERO extent has none */
  readonly name: string | null;
  /** where it begins in its file, in bytes; of flat extents */
  readonly offset: number;
}

export interface Descriptor {
  /** eight hexadecimal digits */
  readonly cid: string;
  /** null: there is no parent, or it is not known by a CID */
  readonly parentCid: string | null;
  /** as the image says it; null: none */
  readonly parentHint: string | null;
  /** a label: what the image is made of, the extents say */
  readonly createType: string;
  readonly extents: readonly ExtentLine[];
  /** of VirtualBox; null: none */
  readonly uuids: {
    readonly image: string | null;
    readonly modification: string | null;
    readonly parent: string | null;
    readonly parentModification: string | null;
  };
}

/** Its bytes are those of the disk, without tables. */
export function isFlat({ type }: ExtentLine): boolean {
  return type === 'FLAT' || type === 'VMFS';
}

/** Its bytes are in a file that is opened. */
export function hasFile({ access, name, type }: ExtentLine): boolean {
  return name !== null && type !== 'ZERO' && access !== 'NOACCESS';
}

/** A line without its end, and where it begins. */
export interface DescriptorLine {
  readonly at: number;
  readonly text: LatinText;
}

/** Up to the first NUL: what follows is room. */
export function textOf(bytes: Uint8Array): LatinText {
  const end = bytes.indexOf(0);
  return Buffer.from(end === -1 ? bytes : bytes.subarray(0, end)).toString('latin1');
}

export function* linesOf(text: LatinText): Generator<DescriptorLine, void> {
  for (let at = 0; at < text.length; ) {
    const end = text.indexOf('\n', at);
    const line = text.slice(at, end === -1 ? text.length : end);
    yield { at, text: line };
    at += line.length + 1;
  }
}

const KEY = /^[\w.]+$/;
/** @param name pattern of the name between its quotes */
function extentLine(name: string): RegExp {
  return new RegExp(
    `^\\s*(RW|RDONLY|NOACCESS)\\s+(\\d{1,16})\\s+([A-Z]+)(?:\\s+"(${name})"(?:\\s+(\\d{1,16}))?)?\\s*$`,
    'i',
  );
}

const EXTENT = extentLine('[^"]+');
/** The name of an embedded extent is ignored, and may be anything that the file was called. */
const EMBEDDED = extentLine('.+');
const EXTENT_START = /^\s*(RW|RDONLY|NOACCESS)\s/i;

/** The key in small letters and the value of a line; null if it is none. */
export function entryOf(line: LatinText): { readonly key: string; readonly value: LatinText } | null {
  const sign = line.indexOf('=');
  const key = line.slice(0, Math.max(0, sign)).trim();
  const value = line.slice(sign + 1).trim();
  if (!KEY.test(key)) return null;
  const isQuoted = value.length > 1 && value.startsWith('"') && value.endsWith('"');
  return { key: key.toLowerCase(), value: isQuoted ? value.slice(1, -1) : value };
}

export function isExtentLine(line: LatinText): boolean {
  return EXTENT_START.test(line);
}

/** @param path for messages @param isEmbedded in the file of its one extent @throws ImgfuseError corrupt, unsupported, limit */
export function parseDescriptor(text: LatinText, path: string, isEmbedded = false): Descriptor {
  const entries = new Map<string, LatinText>();
  const lines: LatinText[] = [];
  for (const { text: line } of linesOf(text)) {
    if (line.trimStart().startsWith('#')) continue;
    if (isExtentLine(line)) {
      if (lines.length === MAX_EXTENTS) throw refusal('limit', path, `it has more than ${MAX_EXTENTS} extents`);
      lines.push(line);
      continue;
    }
    const entry = entryOf(line);
    if (entry === null) continue;
    const before = entries.get(entry.key);
    if (before !== undefined && before !== entry.value) {
      throw refusal('corrupt', path, `it says ${entry.key} twice, ${before} and ${entry.value}`);
    }
    entries.set(entry.key, entry.value);
  }
  const decode = decodingOf(entries.get('encoding') ?? '');
  const extents = lines.map((line) => parseExtent(line, isEmbedded ? EMBEDDED : EXTENT, decode, path));
  refuseForeign(entries, path);
  if (extents.length === 0) throw refusal('corrupt', path, 'it names no extent');
  const size = extents.reduce((bytes, { length }) => bytes + length, 0);
  if (size > MAX_VIRTUAL_SIZE) throw refusal('limit', path, `its extents are ${size} bytes, more than can be opened`);
  const parentCid = cidOf(entries, 'parentcid', path) ?? NO_CID;
  return {
    cid: wanted(cidOf(entries, 'cid', path), path),
    parentCid: parentCid === NO_CID ? null : parentCid,
    parentHint: nameOrNull(entries.get('parentfilenamehint'), decode),
    createType: nameOfBytes(Buffer.from(entries.get('createtype') ?? '', 'latin1')),
    extents,
    uuids: {
      image: uuidOf(entries, 'ddb.uuid.image'),
      modification: uuidOf(entries, 'ddb.uuid.modification'),
      parent: uuidOf(entries, 'ddb.uuid.parent'),
      parentModification: uuidOf(entries, 'ddb.uuid.parentmodification'),
    },
  };
}

function wanted(cid: string | null, path: string): string {
  if (cid === null) throw refusal('corrupt', path, 'it has no CID');
  return cid;
}

function parseExtent(line: LatinText, pattern: RegExp, decode: Decode | null, path: string): ExtentLine {
  const match = pattern.exec(line);
  const shown = line.trim();
  if (match === null) {
    const known = EXTENT_TYPES.join(', ');
    throw refusal(
      'unsupported',
      path,
      `its line '${shown}' is no extent that is opened here: an access (RW, RDONLY, NOACCESS), a number of sectors, a type (${known}), ` +
        'and for all but ZERO a file name in quotes, which only an offset in sectors may follow',
    );
  }
  const access = match[1]!.toUpperCase() as ExtentLine['access'];
  const type = EXTENT_TYPES.find((each) => each === match[3]!.toUpperCase());
  if (type === undefined) {
    throw refusal(
      'unsupported',
      path,
      `its extent '${shown}' is on a device or in a store that only VMware reads; copy the disk with VMware's tools into a file`,
    );
  }
  const name = nameOrNull(match[4], decode);
  const length = Number(match[2]) * SECTOR_BYTES;
  const offset = Number(match[5] ?? 0) * SECTOR_BYTES;
  if (name === null && type !== 'ZERO') throw refusal('corrupt', path, `its extent '${shown}' names no file`);
  const found = { access, length, type, name, offset };
  if (offset !== 0 && !isFlat(found))
    throw refusal('corrupt', path, `its extent '${shown}' begins inside its file, and has tables`);
  if (length === 0) throw refusal('corrupt', path, `its extent '${shown}' has no sectors`);
  if (!(length <= MAX_VIRTUAL_SIZE && offset <= MAX_VIRTUAL_SIZE - length)) {
    throw refusal('limit', path, `its extent '${shown}' is beyond the sizes that can be opened`);
  }
  return found;
}

/** Images whose bytes say something else without a key or a store. */
function refuseForeign(entries: ReadonlyMap<string, LatinText>, path: string): void {
  for (const key of entries.keys()) {
    if (key.startsWith('encryption.'))
      throw refusal('unsupported', path, 'it is encrypted by VMware; decrypt it there first');
  }
  if (entries.get('isnativesnapshot')?.toLowerCase() === 'yes') {
    throw refusal(
      'unsupported',
      path,
      'its snapshot is kept by the storage of the host, and not in files; copy it with VMware',
    );
  }
  const version = entries.get('version') ?? '1';
  if (!/^[1-4]$/.test(version)) throw refusal('unsupported', path, `it has version ${version}, and 1 to 4 are known`);
}

function cidOf(entries: ReadonlyMap<string, LatinText>, key: string, path: string): string | null {
  const value = entries.get(key);
  if (value === undefined) return null;
  if (/^[0-9a-f]{1,8}$/i.test(value)) return value.toLowerCase().padStart(8, '0');
  throw refusal('corrupt', path, `its ${key} is '${value}', and no number of 1 to 8 hexadecimal digits`);
}

function uuidOf(entries: ReadonlyMap<string, LatinText>, key: string): string | null {
  const value = entries.get(key)?.toLowerCase();
  return value === undefined || value === NO_UUID || !/^[0-9a-f-]{36}$/.test(value) ? null : value;
}

/** @throws TypeError if the bytes are no text */
type Decode = (bytes: Uint8Array) => string;

/** VMware writes names in the encoding of its host, windows-1252 for one. Null: UTF-8, or one that is not known. */
function decodingOf(encoding: string): Decode | null {
  try {
    const decoder = new TextDecoder(encoding, { fatal: true });
    if (decoder.encoding === 'utf-8') return null;
    // the decoder of Node 20 takes bytes of windows-1252 for control characters
    return (bytes) =>
      decoder.decode(bytes).replace(/[\x80-\x9f]/g, (control) => WINDOWS_1252[control.charCodeAt(0) - 0x80]!);
  } catch {
    return null;
  }
}

/** Its bytes 0x80 to 0x9f. */
const WINDOWS_1252 = '€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ';

/** A name in UTF-8 is one whatever the encoding: Linux programs change names, and leave the encoding. */
function nameOrNull(text: LatinText | undefined, decode: Decode | null): string | null {
  if (text === undefined || text === '') return null;
  const bytes = Buffer.from(text, 'latin1');
  const name = nameOfBytes(bytes);
  if (decode === null || name.isWellFormed()) return name;
  try {
    return decode(bytes);
  } catch {
    return name;
  }
}

function refusal(kind: 'corrupt' | 'limit' | 'unsupported', path: string, what: string): ImgfuseError {
  return new ImgfuseError(kind, `${path} has a descriptor that is not opened: ${what}`, { path });
}
