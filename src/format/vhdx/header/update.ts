// A change of the headers. It is written into the header that is not current, with the next sequence number, and made durable; then
// into the other one. A crash at any moment leaves one of them whole: the old state or the new one.

import { hostOffset } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { NULL_UUID, newUuid, uuidBytes } from '../../guid.ts';
import { nextSequence, type Sequence, seal, writeSequence } from './fields.ts';
import {
  FILE_WRITE_GUID_AT,
  HEADER_BYTES,
  HEADER_OFFSETS,
  LOG_GUID_AT,
  SEQUENCE_AT,
  type VhdxHeader,
} from './header.ts';

/** Gives the file a new FileWriteGuid, before anything else of it changes. What the guest sees stays, so its DataWriteGuid does. */
export function announceChange(file: HostFile, current: VhdxHeader): void {
  updateBoth(file, current, FILE_WRITE_GUID_AT, newUuid());
}

/** Says that the log holds nothing. What it held is in its place, durably. */
export function clearLog(file: HostFile, current: VhdxHeader): void {
  updateBoth(file, current, LOG_GUID_AT, NULL_UUID);
}

function updateBoth(file: HostFile, { bytes, sequence, slot }: VhdxHeader, at: number, guid: string): void {
  const header = bytes.slice();
  header.set(uuidBytes(guid), at);
  const structure = { bytes: header, view: new DataView(header.buffer) };
  let number: Sequence = sequence;
  for (const target of slot === 0 ? ([1, 0] as const) : ([0, 1] as const)) {
    number = nextSequence(number);
    writeSequence(structure.view, SEQUENCE_AT, number);
    seal(structure);
    failpoint('header-update');
    file.write(header, 0, HEADER_BYTES, hostOffset(HEADER_OFFSETS[target]));
    file.sync();
  }
}
