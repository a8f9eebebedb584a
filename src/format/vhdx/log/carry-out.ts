// The replay of the log into the file:
//
//   new FileWriteGuid, durable in both headers -> the file gets its length, zeros, then data sectors -> fdatasync -> LogGuid null, durable
//   in both headers
//
// No change touches the log or the headers, so a crash before the last step leaves the same log, and the next replay does all of it
// again. The first header without a LogGuid is written when every change is durable.

import { hostOffset } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { readHeaders } from '../header/header.ts';
import { announceChange, clearLog } from '../header/update.ts';
import type { Replay } from './replay.ts';
import { ReplayedFile } from './replayed-file.ts';
import { LOG_SECTOR_BYTES } from './ring.ts';

/** @param replay null: the log that the headers name holds nothing */
export function carryOutLog(file: HostFile, replay: Replay | null): void {
  announceChange(file, readHeaders(file).current);
  if (replay !== null) {
    carryOut(file, replay);
    file.sync();
  }
  clearLog(file, readHeaders(file).current);
}

function carryOut(file: HostFile, replay: Replay): void {
  const { fileLength, targets, zeros } = replay;
  if (file.size() < fileLength) file.truncate(fileLength);
  for (let i = 0; i < zeros.length; i += 2) file.punchHole(hostOffset(zeros[i]!), zeros[i + 1]! - zeros[i]!);
  const view = new ReplayedFile(file, replay);
  for (const [i, target] of targets.entries()) {
    file.write(view.sector(i), 0, LOG_SECTOR_BYTES, hostOffset(target));
  }
}
