// What a read-write open and a repair complete first: the log, and whatever of two equal structures is not as the other one.

import { hostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import { bytesAt } from './header/fields.ts';
import type { Layout } from './header/layout.ts';
import { REGION_TABLE_BYTES, REGION_TABLE_OFFSETS } from './header/region-table.ts';
import { announceChange } from './header/update.ts';
import { carryOutLog } from './log/carry-out.ts';

/** Nothing is left to complete: mend() would change no more than the FileWriteGuid. */
export function isWhole({ headers, regions }: Layout): boolean {
  return headers.current.logGuid === null && headers.damaged === null && regions.damaged === null;
}

/** Each step leaves an image that reads the same, whatever happens in the next one. */
export function mend(file: HostFile, { headers, replay, regions }: Layout): void {
  if (headers.current.logGuid !== null) carryOutLog(file, replay);
  else announceChange(file, headers.current);
  if (regions.damaged === null) return;
  const { bytes } = bytesAt(file, REGION_TABLE_OFFSETS[regions.damaged === 0 ? 1 : 0], REGION_TABLE_BYTES);
  file.write(bytes, 0, REGION_TABLE_BYTES, hostOffset(REGION_TABLE_OFFSETS[regions.damaged]));
  file.sync();
}
