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
    if (cid !== old && !/^f{7}[ef]$/.test(cid)) return cid;
  }
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
    const replaced = (next: string): LatinText => {
      const at = line.lastIndexOf(value);
      return line.slice(0, at) + next + line.slice(at + value.length);
    };
    if (key === 'cid') return replaced(cid.slice(8 - value.length));
    // its last digits are the CID
    if (key === 'ddb.longcontentid' && /^[0-9a-f]{32}$/i.test(value)) return replaced(value.slice(0, 24) + cid);
    if (key === 'ddb.uuid.modification' && /^[0-9a-f-]{36}$/i.test(value)) return replaced(modificationUuid);
    return line;
  });
}

/** The text in which extent number `index` has that many sectors, and the geometry fits the disk. */
export function withSectors(text: LatinText, index: number, sectors: number, diskSectors: number): LatinText {
  let extents = 0;
  const heads = numberOf(text, 'ddb.geometry.heads');
  const perTrack = numberOf(text, 'ddb.geometry.sectors');
  return mapLines(text, (line) => {
    if (line.trimStart().startsWith('#')) return line;
    if (isExtentLine(line)) return extents++ === index ? line.replace(/\d+/, String(sectors)) : line;
    const entry = entryOf(line);
    if (entry?.key !== 'ddb.geometry.cylinders' || heads === null || perTrack === null) return line;
    const cylinders = Math.min(MAX_CYLINDERS, Math.floor(diskSectors / (heads * perTrack)));
    return line.replace(entry.value, String(cylinders));
  });
}

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
