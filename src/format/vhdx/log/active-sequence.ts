// The active sequence: the entries of the log that are to be replayed. Entries that follow each other in the ring, each with the next
// sequence number, are a sequence; it is valid if the tail that its last entry names is one of them. Of the valid sequences the one
// with the highest last number is active, and is replayed from that tail on.
//
// A sector inside a valid entry never begins as an entry does, so each entry is validated once, in a time that the log bounds.

import { compareSequences, nextSequence } from '../header/fields.ts';
import { type LogEntry, validEntryAt } from './entry.ts';
import { LOG_SECTOR_BYTES, type LogRing } from './ring.ts';

/** @returns entries in the order of their replay; none if no sequence is valid */
export function findActiveSequence(ring: LogRing, logGuid: string): LogEntry[] {
  const entries = new Map<number, LogEntry>();
  for (let offset = 0; offset < ring.length; offset += LOG_SECTOR_BYTES) {
    const entry = validEntryAt(ring, offset, logGuid);
    if (entry !== null) entries.set(offset, entry);
  }
  let active: readonly LogEntry[] = [];
  const inSequence = new Set<number>();
  for (const first of entries.values()) {
    // a part of a sequence ends as all of it does, and has no tail that the whole has not
    if (inSequence.has(first.offset)) continue;
    const sequence = sequenceFrom(entries, first, ring.length);
    for (const { offset } of sequence) inSequence.add(offset);
    const last = sequence.at(-1)!;
    const from = sequence.findIndex(({ offset }) => offset === last.tail);
    if (from < 0) continue;
    if (active.length === 0 || compareSequences(last.sequence, active.at(-1)!.sequence) > 0)
      active = sequence.slice(from);
  }
  return [...active];
}

/** An entry and those that follow it. */
function sequenceFrom(entries: ReadonlyMap<number, LogEntry>, first: LogEntry, ringLength: number): LogEntry[] {
  const sequence = [first];
  for (let last = first; ; ) {
    const next = entries.get((last.offset + last.length) % ringLength);
    if (next === undefined || compareSequences(next.sequence, nextSequence(last.sequence)) !== 0) return sequence;
    sequence.push(next);
    last = next;
  }
}
