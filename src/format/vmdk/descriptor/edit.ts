// Changes of a descriptor as new texts of the same lines. A new CID has as many digits as the old one, so it is written in place and
// nothing else moves; one that is cut short by a crash is a CID that no child knows, as it should be.

import { randomBytes, randomInt, randomUUID } from 'node:crypto';
import { entryOf, isExtentLine, type LatinText, linesOf } from './parse.ts';

/** A CID of at most `digits` digits that is none of the two with a meaning, and not the old one. */
export function newCid(old: string, digits: number): string {
  for (;;) {
    const cid = randomBytes(4)
      .toString('hex')
      .slice(8 - digits)
      .padStart(8, '0');
    if (cid !== old && isFreeCid(cid)) return cid;
  }
}

/** It means nothing else than an image. */
export function isFreeCid(cid: string): boolean {
  return !/^f{7}[ef]$/.test(cid);
}

export function cidDigits(text: LatinText): number {
  for (const { text: line } of linesOf(text)) {
    const entry = entryOf(line);
    if (entry?.key === 'cid') return entry.value.length;
  }
  return 8;
}

/** What a session of writing stores: children of the old state must not be opened on the new one. */
export interface NewIdentity {
  /** eight digits */
  readonly cid: string;
  readonly modificationUuid: string;
}

export function newIdentity(text: LatinText, oldCid: string): NewIdentity {
  return { cid: newCid(oldCid, cidDigits(text)), modificationUuid: randomUUID() };
}

/** The text with that identity; its length stays. */
export function withIdentity(text: LatinText, { cid, modificationUuid }: NewIdentity): LatinText {
  return mapLines(text, (line) => {
    const entry = entryOf(line);
    if (entry === null || line.trimStart().startsWith('#')) return line;
    const { key, value } = entry;
    const replaced = (next: string): LatinText => withValue(line, value, next);
    if (key === 'cid') return replaced(cid.slice(8 - value.length));
    // its last digits are the CID
    if (key === 'ddb.longcontentid' && /^[0-9a-f]{32}$/i.test(value)) return replaced(value.slice(0, 24) + cid);
    if (key === 'ddb.uuid.modification' && /^[0-9a-f-]{36}$/i.test(value)) return replaced(modificationUuid);
    return line;
  });
}

/** What an image says of its parent. */
export interface ParentWords {
  /** eight digits; NO_CID: there is none; absent: it stays */
  readonly cid?: string;
  /** null: none; absent: it stays */
  readonly hint?: LatinText | null;
  /** ddb.uuid.image and ddb.uuid.modification of the parent, where the image has such lines; absent: they stay */
  readonly uuids?: { readonly image?: string; readonly modification: string };
}

/** The text with that parent. Its length stays if no name changes, but for a CID that needs more digits than the old one has. */
export function withParent(text: LatinText, { cid, hint, uuids }: ParentWords): LatinText {
  const known = new Set([...linesOf(text)].map(({ text: line }) => keyOf(line)));
  const lines: LatinText[] = [];
  for (const line of text.split('\n')) {
    const key = keyOf(line);
    const { value = '' } = entryOf(line) ?? {};
    if (hint !== undefined && key === 'parentfilenamehint') continue;
    if (key === 'parentcid' && cid !== undefined) lines.push(withValue(line, value, shortest(cid, value.length)));
    else if (key === 'ddb.uuid.parent' && uuids?.image !== undefined) lines.push(withValue(line, value, uuids.image));
    else if (key === 'ddb.uuid.parentmodification' && uuids !== undefined)
      lines.push(withValue(line, value, uuids.modification));
    else lines.push(line);
    // QEMU looks for parentCID right behind the CID
    const end = line.endsWith('\r') ? '\r' : '';
    if (key === 'cid' && cid !== undefined && !known.has('parentcid')) lines.push(`parentCID=${cid}${end}`);
    const isPlace = key === (known.has('createtype') ? 'createtype' : 'cid');
    if (isPlace && typeof hint === 'string') lines.push(`parentFileNameHint="${hint}"${end}`);
  }
  return lines.join('\n');
}

/** null: the line is a comment, an extent, or nothing */
function keyOf(line: LatinText): string | null {
  return line.trimStart().startsWith('#') || isExtentLine(line) ? null : (entryOf(line)?.key ?? null);
}

/** @param value of the line, which it has at its end; an empty one is between quotes, or nothing */
function withValue(line: LatinText, value: LatinText, next: LatinText): LatinText {
  const quotes = line.lastIndexOf('""');
  const empty = quotes < 0 ? line.trimEnd().length : quotes + 1;
  const at = value === '' ? empty : line.lastIndexOf(value);
  return line.slice(0, at) + next + line.slice(at + value.length);
}

/** A CID of so many digits, or of eight if they are not enough. */
function shortest(cid: string, digits: number): string {
  return /^0*$/.test(cid.slice(0, 8 - digits)) ? cid.slice(8 - digits) : cid;
}

/**
 * The text in which extent number `index` has that many sectors, and the geometry fits the disk; the same text if that extent has them
 * already, because programs disagree about geometries.
 */
export function withSectors(text: LatinText, index: number, sectors: number, diskSectors: number): LatinText {
  const line = [...linesOf(text)].map((each) => each.text).filter(isExtentLine)[index];
  if (line !== undefined && Number(SECTORS.exec(line)?.[0]) === sectors) return text;
  let extents = 0;
  const heads = numberOf(text, 'ddb.geometry.heads');
  const perTrack = numberOf(text, 'ddb.geometry.sectors');
  return mapLines(text, (line) => {
    if (line.trimStart().startsWith('#')) return line;
    if (isExtentLine(line)) return extents++ === index ? line.replace(SECTORS, String(sectors)) : line;
    const entry = entryOf(line);
    if (entry?.key !== 'ddb.geometry.cylinders' || heads === null || perTrack === null) return line;
    const cylinders = Math.max(1, Math.min(MAX_CYLINDERS, Math.floor(diskSectors / (heads * perTrack))));
    return withValue(line, entry.value, String(cylinders));
  });
}

/** The first number of an extent's line. */
const SECTORS = /\d+/;

/** What VMware writes at most. */
export const MAX_CYLINDERS = 65535;

function numberOf(text: LatinText, key: string): number | null {
  for (const { text: line } of linesOf(text)) {
    const entry = entryOf(line);
    if (entry?.key === key)
      return /^\d{1,9}$/.test(entry.value) && Number(entry.value) > 0 ? Number(entry.value) : null;
  }
  return null;
}

function mapLines(text: LatinText, change: (line: LatinText) => LatinText): LatinText {
  return text
    .split('\n')
    .map((line) => change(line))
    .join('\n');
}

/** @returns a number that no other image has, for a new descriptor */
export function randomCid(): string {
  return randomInt(1, 0xfffffffd).toString(16).padStart(8, '0');
}
