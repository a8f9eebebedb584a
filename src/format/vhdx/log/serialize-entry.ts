// The bytes of a new log entry; entry.ts has the layout. All of its descriptors are data descriptors and fit into its first sector.

import { writeU64LE } from '../../../bytes/endian.ts';
import { assert } from '../../../errors/index.ts';
import { seal } from '../header/fields.ts';
import { DESCRIPTOR_BYTES, ENTRY_HEADER_BYTES } from './entry.ts';
import { LOG_SECTOR_BYTES } from './ring.ts';

/** Data descriptors of an entry whose descriptors take one sector. */
export const MAX_ENTRY_SECTORS = (LOG_SECTOR_BYTES - ENTRY_HEADER_BYTES) / DESCRIPTOR_BYTES;
const HIGH_WORD = 2 ** 32;

/** What the header of an entry says. */
export interface EntryFacts {
  /** UUID_BYTES bytes */
  readonly logGuid: Uint8Array;
  /** a safe integer, not 0 */
  readonly sequence: number;
  /** in the log, as `tail` */
  readonly tail: number;
  readonly flushedFileOffset: number;
  readonly lastFileOffset: number;
}

/** Bytes of an entry with so many data sectors. */
export function entryBytes(sectors: number): number {
  return (1 + sectors) * LOG_SECTOR_BYTES;
}

/**
 * @param targets where in the file the sectors belong
 * @param entry of entryBytes(); the sectors stand in it where its data sectors are
 */
export function serializeEntry(entry: Uint8Array, facts: EntryFacts, targets: readonly number[]): void {
  assert(targets.length <= MAX_ENTRY_SECTORS, 'the descriptors of an entry fit into one sector');
  const view = new DataView(entry.buffer, entry.byteOffset, entry.length);
  entry.fill(0, 0, LOG_SECTOR_BYTES);
  writeText(entry, 0, 'loge');
  view.setUint32(8, entry.length, true);
  view.setUint32(12, facts.tail, true);
  writeU64LE(view, 16, facts.sequence);
  view.setUint32(24, targets.length, true);
  entry.set(facts.logGuid, 32);
  writeU64LE(view, 48, facts.flushedFileOffset);
  writeU64LE(view, 56, facts.lastFileOffset);
  for (const [i, target] of targets.entries()) {
    const at = ENTRY_HEADER_BYTES + i * DESCRIPTOR_BYTES;
    const data = entryBytes(i);
    const end = data + LOG_SECTOR_BYTES;
    writeText(entry, at, 'desc');
    entry.copyWithin(at + 4, end - 4, end);
    entry.copyWithin(at + 8, data, data + 8);
    writeU64LE(view, at + 16, target);
    writeU64LE(view, at + 24, facts.sequence);
    writeText(entry, data, 'data');
    view.setUint32(data + 4, Math.floor(facts.sequence / HIGH_WORD), true);
    view.setUint32(end - 4, facts.sequence >>> 0, true);
  }
  seal({ bytes: entry, view });
}

function writeText(bytes: Uint8Array, at: number, text: string): void {
  for (let i = 0; i < text.length; i++) bytes[at + i] = text.charCodeAt(i);
}
