// The check of an image: headers, log and region tables, then the block allocation table as the log leaves it. A repair of everything
// carries the log out, and writes a damaged header or region table again from the other one. An entry that leads to no block
// is never changed: its data may be somewhere.

import type { HostFile } from '../../../host/host-file.ts';
import { type CheckReport, limitedLog } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import { nothingAtTheEnd } from '../../truncated-copy.ts';
import { readHeaders } from '../header/header.ts';
import type { Layout } from '../header/layout.ts';
import { announceChange } from '../header/update.ts';
import { mend } from '../mend.ts';
import { readSoundLayout } from '../open.ts';
import { separateBlocks } from './shared-blocks.ts';
import { walkTable } from './table-walk.ts';

const PENDING = 'The image was not closed: what its log holds counts here as carried out; check -r all carries it out';

export function checkVhdx(file: HostFile, options: CheckOptions): CheckReport {
  const log = limitedLog(options.log);
  const isRepair = options.repair === 'all';
  const found = readSoundLayout(file);
  const isPending = found.replay !== null;
  const faults = faultsOf(found);
  const isMended = isRepair && (isPending || faults.length > 0);
  if (isMended) mend(file, found);
  const layout = isMended ? readSoundLayout(file) : found;
  if (isPending) log(isRepair ? 'Repaired: what the log holds was carried out' : PENDING);
  const { cutOff, describe, report, shared } = walkTable(layout, { ...options, log }, !isRepair);
  if (isRepair && cutOff > 0) {
    for (const entry of shared) log(`ERROR ${describe(entry)}, where another block lies, too`);
    // a copy behind the end would make the file so long that the entry leads into it
    log(nothingAtTheEnd('an entry leads'));
  } else if (isRepair && shared.length > 0 && report.checkErrors === 0) {
    separateBlocks(file, layout, shared, (entry, what) => {
      report.corruptionsFixed++;
      log(`Repaired ${describe(entry)}, where another block lies, too; ${what}`);
    });
    // an entry that keeps no place any more may have had the last one
    const { imageEndOffset, leaks } = walkTable(readSoundLayout(file), { log: () => undefined }, true).report;
    Object.assign(report, { imageEndOffset, leaks });
  }
  for (const fault of faults) {
    report.corruptions++;
    if (isMended) report.corruptionsFixed++;
    log(isMended ? `Repaired: ${fault}` : `ERROR ${fault}`);
  }
  if (report.leaks > 0) checkTail(file, layout, report, { ...options, log });
  return report;
}

/** What is wrong and has a twin that is right, as sentences. */
function faultsOf({ headers, regions, replay }: Layout): string[] {
  const faults: string[] = [];
  if (headers.damaged !== null) faults.push(`header ${headers.damaged + 1} is damaged, and the other one is not`);
  if (headers.current.logGuid !== null && replay === null)
    faults.push('the headers name a log, which has no valid entry');
  if (regions.damaged !== null) faults.push(`region table ${regions.damaged + 1} is not as the other one`);
  return faults;
}

/** Space behind the last block; it is cut off only if nothing can lie there that a damaged entry has lost. */
function checkTail(file: HostFile, { headers }: Layout, report: CheckReport, { log, repair }: CheckOptions): void {
  const isSound = report.corruptions === report.corruptionsFixed && report.checkErrors === 0;
  if (repair === 'none' || !isSound || headers.current.logGuid !== null) {
    log(`Leaked clusters: behind the last block there is room for ${report.leaks}`);
    return;
  }
  announceChange(file, readHeaders(file).current);
  file.truncate(report.imageEndOffset);
  file.sync();
  report.leaksFixed = report.leaks;
  log(`Repaired: room for ${report.leaks} blocks behind the last one was cut off`);
}
