// How a differencing VHD names its parent: up to eight locators, each a name in the way of some system, and the bare name in the
// header. A locator is 24 bytes: code [4], data_space u32, data_length u32, 0, offset of the name u64.
//
//   W2ru   relative, ".\base.vhd"      UTF-16LE, no NUL        MacX   a file URL, UTF-8
//   W2ku   absolute, "C:\base.vhd"     UTF-16LE, no NUL
//
// A name is only a hint: which image is meant is what the UUID says. Names come from anybody, so they are bounded.

import { readU64BE, writeU64BE } from '../../../bytes/endian.ts';
import { hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { fromWindowsPath, withoutDot } from '../../windows-path.ts';

export const LOCATORS = 576;
const LOCATOR_BYTES = 24;
export const LOCATOR_COUNT = 8;
export const LOCATORS_END = LOCATORS + LOCATOR_COUNT * LOCATOR_BYTES;
const NAME = 64;
export const NAME_BYTES = 512;
/** Longest name that is read, in bytes: twice what a Linux path has. */
const MAX_NAME_BYTES = 8192;

const RELATIVE = 'W2ru';
const ABSOLUTE = 'W2ku';
const URL_CODE = 'MacX';

export interface Locator {
  readonly code: string;
  /** bytes that the name may take in the file */
  readonly space: number;
  readonly length: number;
  /** NaN if it is no safe integer */
  readonly offset: number;
}

/** Those that are there. @param header all of it */
export function locatorsIn(header: DataView): Locator[] {
  const locators: Locator[] = [];
  for (let index = 0; index < LOCATOR_COUNT; index++) {
    const at = LOCATORS + index * LOCATOR_BYTES;
    const code = Buffer.from(header.buffer, header.byteOffset + at, 4).toString('latin1');
    if (code === '\0\0\0\0') continue;
    const space = header.getUint32(at + 4, false);
    locators.push({
      code,
      // sectors by the specification; Windows writes bytes
      space: space >= SECTOR_BYTES && space % SECTOR_BYTES === 0 ? space : space * SECTOR_BYTES,
      length: header.getUint32(at + 8, false),
      offset: readU64BE(header, at + 16),
    });
  }
  return locators;
}

/** The bare name of the parent in a header. */
export function parentNameIn(header: Uint8Array): string {
  const units = Buffer.from(header.subarray(NAME, NAME + NAME_BYTES)).swap16();
  return upToNul(units.toString('utf16le'));
}

/** A locator that cannot be: a sentence about it, or null. */
export function faultOf({ code, offset, length, space }: Locator, fileSize: number): string | null {
  if (length > MAX_NAME_BYTES) return `the parent locator ${code} has a name of ${length} bytes`;
  if (length > space) return `the parent locator ${code} has ${length} bytes in a space of ${space}`;
  if (offset + length <= fileSize) return null;
  return `the parent locator ${code} at ${offset} ends beyond the file`;
}

/**
 * The names by which a child knows its parent, in the order in which they are tried: relative to the child, by its bare name
 * beside the child, absolute. An absolute name without a relative one is the name that the child was made with, and comes first.
 * @throws ImgfuseError corrupt for a child that names no parent at all
 */
export function parentNames(file: HostFile, locators: readonly Locator[], bareName: string): string[] {
  const named = (code: string): string[] =>
    locators.filter((locator) => locator.code === code).map((locator) => readName(file, locator));
  const [relative, absolute] = [named(RELATIVE), named(ABSOLUTE)];
  const urls = named(URL_CODE).map(pathOfUrl);
  const bare = fromWindowsPath(bareName).replace(/^.*\//, '');
  const elsewhere = [...absolute.map(fromWindowsPath), ...urls];
  const all = relative.length > 0 ? [...relative.map(fromWindowsPath), bare, ...elsewhere] : [...elsewhere, bare];
  // both may have been moved together
  all.push(...elsewhere.map((name) => name.replace(/^.*\//, '')));
  const names = [...new Set(all.map(withoutDot).filter((name) => name !== ''))];
  if (names.length > 0) return names;
  const { path } = file;
  throw new ImgfuseError('corrupt', `${path} is a differencing VHD that names no parent; its disk cannot be read`, {
    path,
  });
}

function readName(file: HostFile, locator: Locator): string {
  const fault = faultOf(locator, file.size());
  if (fault !== null) throw new ImgfuseError('corrupt', `${file.path}: ${fault}`, { path: file.path });
  const bytes = Buffer.alloc(locator.length);
  file.read(bytes, 0, bytes.length, hostOffset(locator.offset));
  return upToNul(bytes.toString(locator.code === URL_CODE ? 'utf8' : 'utf16le'));
}

function upToNul(name: string): string {
  const end = name.indexOf('\0');
  return end < 0 ? name : name.slice(0, end);
}

/** "file:///a/b", and "file://./b" as Xen writes a relative one. */
function pathOfUrl(url: string): string {
  const path = url.replace(/^file:\/\/(localhost(?=\/))?/, '');
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** What a child stores of its parent's name. */
export interface StoredName {
  /** for the header, from 64 on */
  readonly name: Uint8Array;
  /** for the header, from 576 on */
  readonly locators: Uint8Array;
  /** what the locator refers to, whole sectors */
  readonly data: Uint8Array;
}

/**
 * @param refusal what a sentence about a wrong name says of the image @param place where so many bytes of `data` will lie
 * @throws ImgfuseError usage for a name that the format cannot hold
 */
export function storeName(path: string, refusal: string, name: string, place: (bytes: number) => number): StoredName {
  const isAbsolute = name.startsWith('/');
  const refuse = (why: string): never => {
    throw new ImgfuseError('usage', `${path} ${refusal}: the name '${name}' of its backing file ${why}`);
  };
  if (!name.isWellFormed()) refuse('is not UTF-8, and a VHD stores names as UTF-16');
  if (name.includes('\\')) refuse('has a backslash, which separates directories in a VHD');
  const windows = name.replaceAll('/', '\\');
  const units = Buffer.from(isAbsolute || windows.startsWith('.\\') ? windows : `.\\${windows}`, 'utf16le');
  if (units.length > MAX_NAME_BYTES) refuse(`takes ${units.length} bytes as UTF-16, and ${MAX_NAME_BYTES} are read`);
  const bare = Buffer.from(name.replace(/^.*\//, ''), 'utf16le').swap16();
  const stored = new Uint8Array(NAME_BYTES);
  stored.set(bare.subarray(0, NAME_BYTES - 2));
  const data = new Uint8Array(roundUp(units.length, SECTOR_BYTES));
  data.set(units);
  const locators = new Uint8Array(LOCATOR_COUNT * LOCATOR_BYTES);
  const view = new DataView(locators.buffer);
  locators.set(Buffer.from(isAbsolute ? ABSOLUTE : RELATIVE, 'latin1'));
  view.setUint32(4, data.length, false);
  view.setUint32(8, units.length, false);
  writeU64BE(view, 16, place(data.length));
  return { name: stored, locators, data };
}
