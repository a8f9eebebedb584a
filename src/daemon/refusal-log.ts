// Says in the log who stands in the way of an opening: the caller itself learns no more than "Device or resource busy".

import type { Refusal } from '../filesystem/index.ts';
import { processName, processStartTime } from '../host/processes.ts';
import type { Log } from './log.ts';

export function refusalLog(log: Log): (refusal: Refusal) => void {
  return ({ name, holderName, holderWrites, holder }) => {
    const how = holderWrites ? 'open for writing' : 'open for reading';
    log(
      'warning',
      `${name} cannot be opened, because it shows the same bytes as ${holderName}, which is ${how}${by(holder)}; close that first`,
    );
  };
}

/** A process that has ended may have left the file to a loop device, or to a child. */
function by(pid: number): string {
  if (pid === 0) return '';
  if (processStartTime(pid) !== null) return ` by ${processName(pid)} (process ${pid})`;
  return `: process ${pid} opened it and has ended, and a loop device (losetup -a) or another process still has it`;
}
