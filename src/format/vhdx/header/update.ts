// A change of the headers. It is written into the header that is not current, with the next sequence number, and made durable; then
// into the other one. A crash at any moment leaves one of them whole: the old state or the new one.

import { hostOffset } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { NULL_UUID, newUuid, uuidBytes } from '../../guid.ts';
import { nextSequence, type Sequence, seal, writeSequence } from './fields.ts';
import {
  DATA_WRITE_GUID_AT,
  FILE_WRITE_GUID_AT,
  HEADER_BYTES,
  HEADER_OFFSETS,
  LOG_GUID_AT,
  SEQUENCE_AT,
  type VhdxHeader,
} from './header.ts';

/** The GUIDs that change; what is absent stays. */
export interface HeaderChange {
  /** changes before anything else of the file does */
  readonly fileWriteGuid?: string;
  /** changes before what the guest sees does */
  readonly dataWriteGuid?: string;
  /** NULL_UUID: the log holds nothing */
  readonly logGuid?: string;
}

/** Gives the file a new FileWriteGuid, before anything else of it changes. What the guest sees stays, so its DataWriteGuid does. */
export function announceChange(file: HostFile, current: VhdxHeader): void {
  updateHeaders(file, current, { fileWriteGuid: newUuid() });
}

/** Says that the log holds nothing. What it held is in its place, durably. */
export function clearLog(file: HostFile, current: VhdxHeader): void {
  updateHeaders(file, current, { logGuid: NULL_UUID });
}

/** What a failure of the file means to whoever changes the headers. */
export interface GuardedSteps {
  write(action: () => void): void;
  sync(): void;
}

/** Durable in both headers when it returns. */
export function updateHeaders(
  file: HostFile,
  { bytes, sequence, slot }: VhdxHeader,
  change: HeaderChange,
  steps: GuardedSteps = { write: writeHeader, sync: () => file.sync() },
): void {
  const header = bytes.slice();
  const { dataWriteGuid, fileWriteGuid, logGuid } = change;
  if (fileWriteGuid !== undefined) header.set(uuidBytes(fileWriteGuid), FILE_WRITE_GUID_AT);
  if (dataWriteGuid !== undefined) header.set(uuidBytes(dataWriteGuid), DATA_WRITE_GUID_AT);
  if (logGuid !== undefined) header.set(uuidBytes(logGuid), LOG_GUID_AT);
  const structure = { bytes: header, view: new DataView(header.buffer) };
  let number: Sequence = sequence;
  for (const target of slot === 0 ? ([1, 0] as const) : ([0, 1] as const)) {
    number = nextSequence(number);
    writeSequence(structure.view, SEQUENCE_AT, number);
    seal(structure);
    steps.write(() => file.write(header, 0, HEADER_BYTES, hostOffset(HEADER_OFFSETS[target])));
    steps.sync();
  }
}

function writeHeader(action: () => void): void {
  failpoint('header-update');
  action();
}
