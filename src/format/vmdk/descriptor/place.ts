// Where the descriptor of an image is: a text file of its own, or inside the only extent. It is changed where it stands: by one write
// of the bytes that differ, if a crash cannot leave a mixture of them, else with a record beside it (pending.ts).

import { type HostOffset, hostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { closeQuietly } from '../../../errors/close.ts';
import { ImgfuseError, isHostFull } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import type { ExtentFacts, ExtentKind } from '../extent.ts';
import { kindOf } from '../kinds.ts';
import { type LatinText, linesOf, textOf } from './parse.ts';
import { pendingIn, pendingRecord, recordBytes } from './pending.ts';

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
  /** a crash has left a change of it half made; `text` is what it becomes */
  readonly isChanging: boolean;
  /** the extent that the descriptor is in; null: it is a file of its own */
  readonly embedding: { readonly kind: ExtentKind; readonly facts: ExtentFacts } | null;
}

/** @throws ImgfuseError corrupt, unsupported, limit */
export function findDescriptor(file: HostFile): FoundDescriptor {
  const kind = kindOf(file);
  if (kind === null) {
    const place = { offset: hostOffset(0), length: file.size(), isFile: true };
    return { place, ...readText(file, place), embedding: null };
  }
  const facts = kind.inspect(file);
  const place = facts.descriptor === null ? null : { ...facts.descriptor, isFile: false };
  const found = place === null ? null : readText(file, place);
  if (place === null || found === null || found.text.trim() === '') {
    throw new ImgfuseError(
      'usage',
      `${file.path} is one extent of an image, ${kind.title}, and no whole disk; open the small text file that names it, its ` +
        'descriptor',
      { path: file.path },
    );
  }
  return { place, ...found, embedding: { kind, facts } };
}

function readText(file: HostFile, place: DescriptorPlace): Pick<FoundDescriptor, 'isChanging' | 'text'> {
  const bytes = readBytes(file, place);
  const pending = pendingIn(bytes);
  return { text: textOf(pending?.next ?? bytes), isChanging: pending !== null };
}

function readBytes(file: HostFile, { offset, length }: DescriptorPlace): Buffer {
  if (length > MAX_DESCRIPTOR_BYTES) {
    throw new ImgfuseError(
      'limit',
      `${file.path} has a descriptor of ${length} bytes, and one of a VMDK image has ${MAX_DESCRIPTOR_BYTES} at most`,
      { path: file.path },
    );
  }
  const bytes = Buffer.alloc(length);
  readPadded(file, bytes, 0, length, offset);
  return bytes;
}

/** How a descriptor is written. */
export interface DescriptorWriter {
  /** runs a write, so that it counts as one of metadata */
  readonly write: (action: () => void) => void;
  readonly sync: () => void;
  /** a crash must leave the old text or the new one, whatever that takes; else that is tried, as far as there is room for it */
  readonly isWhole?: boolean;
}

/** For who has a file and nothing else. */
export function plainWriter(file: HostFile): DescriptorWriter {
  return { write: (action) => action(), sync: () => file.sync() };
}

/** Completes a change that was cut short: the text becomes what the record says, and the record goes. */
export function settleText(file: HostFile, place: DescriptorPlace, { sync, write }: DescriptorWriter): void {
  const { isFile, length: room, offset } = placeNow(file, place);
  const pending = pendingIn(readBytes(file, { ...place, length: room }));
  if (pending === null) return;
  const { length, next, region } = pending;
  write(() => file.write(next, 0, region, offset));
  sync();
  if (isFile) {
    write(() => file.truncate(length));
  } else {
    const rest = Math.min(room - region, recordBytes(region));
    write(() => file.write(new Uint8Array(rest), 0, rest, hostOffset(offset + region)));
  }
  sync();
}

/** A file of its own may have another length by now. */
function placeNow(file: HostFile, place: DescriptorPlace): DescriptorPlace {
  return place.isFile ? { ...place, length: file.size() } : place;
}

/** Durable when it returns. @throws ImgfuseError limit, before anything is written, if the new text has no room */
export function replaceText(
  file: HostFile,
  place: DescriptorPlace,
  edit: (text: LatinText) => LatinText,
  writer: DescriptorWriter,
): void {
  settleText(file, place, writer);
  const bytes = readBytes(file, placeNow(file, place));
  const old = textOf(bytes);
  const next = edit(old);
  if (next === old) return;
  const room = place.isFile ? MAX_DESCRIPTOR_BYTES : place.length;
  const noRoom = `${file.path} has no room for a descriptor of ${next.length} bytes`;
  if (next.length > room) throw new ImgfuseError('limit', noRoom, { path: file.path });
  if (isTornApart(old, next, place, writer.isWhole === true)) {
    const record = pendingRecord(bytes, Buffer.from(next, 'latin1'));
    const hasRoom = record.region + record.bytes.length <= room;
    if (hasRoom && writeRecord(file, place, bytes, record, writer)) {
      settleText(file, place, writer);
      return;
    }
    if (writer.isWhole === true) throw new ImgfuseError('limit', `${noRoom} beside the old one`, { path: file.path });
  }
  // behind a longer text there may be anything
  const end = next.length > old.length && (bytes[next.length] ?? 0) !== 0 ? '\0' : '';
  writeDifference(file, place, old, next + end, writer);
}

/**
 * A crash may leave a mixture of the two that is neither; lines that keep their places are true by themselves. @param isWhole so that
 * one of them without the others would not do
 */
function isTornApart(old: LatinText, next: LatinText, { isFile }: DescriptorPlace, isWhole: boolean): boolean {
  const isCut = (from: number, one: LatinText, other: LatinText): boolean => {
    const { first, end } = differenceOf(one, other);
    return first < end && Math.floor((from + first) / SECTOR_BYTES) !== Math.floor((from + end - 1) / SECTOR_BYTES);
  };
  // the length of a file is durable apart from its bytes
  if (isFile && next.length > old.length) return true;
  if (isWhole || old.length !== next.length) return isCut(0, old, next.padEnd(old.length, '\0'));
  return [...linesOf(old)].some(({ at, text }) => isCut(at, text, next.slice(at, at + text.length)));
}

function differenceOf(old: LatinText, next: LatinText): { readonly first: number; readonly end: number } {
  let first = 0;
  while (first < next.length && next[first] === old[first]) first++;
  let end = next.length;
  while (end > first && end <= old.length && next[end - 1] === old[end - 1]) end--;
  return { first, end };
}

/** @returns whether it is there; if not, the file is as it was. @throws what isWhole must not do without */
function writeRecord(
  file: HostFile,
  place: DescriptorPlace,
  old: Buffer,
  { bytes, region }: ReturnType<typeof pendingRecord>,
  { isWhole, sync }: DescriptorWriter,
): boolean {
  // a file of text ends before its sector does
  const from = place.isFile ? Math.min(old.length, region) : region;
  const written = Buffer.concat([Buffer.alloc(region - from), bytes]);
  try {
    file.write(written, 0, written.length, hostOffset(place.offset + from));
  } catch (error) {
    if (place.isFile) closeQuietly([{ close: () => file.truncate(old.length) }]);
    if (isWhole === true || !(error instanceof ImgfuseError) || !isHostFull(error)) throw error;
    return false;
  }
  sync();
  return true;
}

/** One write; what the old text had beyond the end of the new one becomes room. */
function writeDifference(
  file: HostFile,
  { isFile, offset }: DescriptorPlace,
  old: LatinText,
  next: LatinText,
  { sync, write }: DescriptorWriter,
): void {
  const padded = next.padEnd(old.length, isFile ? '\n' : '\0');
  const { first, end } = differenceOf(old, padded);
  const bytes = Buffer.from(padded.slice(first, end), 'latin1');
  write(() => file.write(bytes, 0, bytes.length, hostOffset(offset + first)));
  sync();
}
