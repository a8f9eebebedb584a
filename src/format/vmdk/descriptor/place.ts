// Where the descriptor of an image is: a text file of its own, or inside the only extent. It is changed where it stands, by one write
// of the bytes that differ.

import { type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import type { ExtentFacts, ExtentKind } from '../extent.ts';
import { kindOf } from '../kinds.ts';
import { type LatinText, textOf } from './parse.ts';

/** Text longer than that is no descriptor. */
const MAX_DESCRIPTOR_BYTES = 2 ** 20;

export interface DescriptorPlace {
  readonly offset: HostOffset;
  /** bytes of room */
  readonly length: number;
  /** a file of its own, which may grow */
  readonly isFile: boolean;
}

export interface FoundDescriptor {
  readonly place: DescriptorPlace;
  readonly text: LatinText;
  /** the extent that the descriptor is in; null: it is a file of its own */
  readonly embedding: { readonly kind: ExtentKind; readonly facts: ExtentFacts } | null;
}

/** @throws ImgfuseError corrupt, unsupported, limit */
export function findDescriptor(file: HostFile): FoundDescriptor {
  const kind = kindOf(file);
  if (kind === null) {
    const place = { offset: hostOffset(0), length: file.size(), isFile: true };
    return { place, text: readText(file, place), embedding: null };
  }
  const facts = kind.inspect(file);
  const place = facts.descriptor === null ? null : { ...facts.descriptor, isFile: false };
  const text = place === null ? '' : readText(file, place);
  if (place === null || text.trim() === '') {
    throw new ImgfuseError(
      'usage',
      `${file.path} is one extent of an image, ${kind.title}, and no whole disk; open the small text file that names it, its ` +
        'descriptor',
      { path: file.path },
    );
  }
  return { place, text, embedding: { kind, facts } };
}

export function readText(file: HostFile, { offset, length }: DescriptorPlace): LatinText {
  if (length > MAX_DESCRIPTOR_BYTES) {
    throw new ImgfuseError(
      'limit',
      `${file.path} has a descriptor of ${length} bytes, and one of a VMDK image has ${MAX_DESCRIPTOR_BYTES} at most`,
      { path: file.path },
    );
  }
  const bytes = new Uint8Array(length);
  readPadded(file, bytes, 0, length, offset);
  return textOf(bytes);
}

/**
 * Writes the bytes that differ, with one write. @param write makes the write count as one of metadata @returns whether any do
 * @throws ImgfuseError limit, before anything is written, if the new text has no room
 */
export function replaceText(
  file: HostFile,
  place: DescriptorPlace,
  edit: (text: LatinText) => LatinText,
  write: (action: () => void) => void,
): boolean {
  const length = place.isFile ? file.size() : place.length;
  const old = readText(file, { ...place, length });
  const next = edit(old);
  if (next === old) return false;
  if (next.length > (place.isFile ? MAX_DESCRIPTOR_BYTES : place.length)) {
    throw new ImgfuseError('limit', `${file.path} has no room for a descriptor of ${next.length} bytes`, {
      path: file.path,
    });
  }
  // what the old text had beyond the end of the new one becomes room
  const padded = next.padEnd(old.length, place.isFile ? '\n' : '\0');
  let first = 0;
  while (first < old.length && padded[first] === old[first]) first++;
  let end = padded.length;
  while (end > first && end <= old.length && padded[end - 1] === old[end - 1]) end--;
  const bytes = Buffer.from(padded.slice(first, end), 'latin1');
  write(() => file.write(bytes, 0, bytes.length, hostOffset(place.offset + first)));
  return true;
}
