// `check` of an image of one file: the walk of its BAT, and what a repair does beside it. Leaks are reclaimed by an open and a clean
// close, which also takes the mark of an image in use away.

import type { HostFile } from '../../../host/host-file.ts';
import { believeRepair, type CheckReport, limitedLog } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import { UnopenedBacking } from '../../unopened-backing.ts';
import { readHeader } from '../header.ts';
import { checkBat } from './bat-walk.ts';
import { assertDroppable, readExtension } from './extension.ts';
import { openPlain } from './open.ts';

const REPAIR_OPTIONS = { readOnly: false, tableCacheBytes: 16 * 1024 * 1024, slots: 1, probed: false } as const;

export function checkPlain(file: HostFile, options: CheckOptions): CheckReport {
  const header = readHeader(file);
  const { isInUse } = header;
  // what a repair takes away is told for every entry: nothing else keeps its old value
  const log = options.repair === 'all' ? options.log : limitedLog(options.log);
  const keeps = readExtension(file, header)?.keeps ?? null;
  if (options.repair !== 'none' && keeps !== null) {
    const { report } = checkBat(file, header, { ...options, repair: 'none', log });
    if (report.corruptions + report.leaks > 0 || isInUse) assertDroppable(file, header, readExtension(file, header));
    return report;
  }
  const { report } = checkBat(file, header, { ...options, log });
  if (report.corruptionsFixed > 0 && !believeRepair(report, errorsIn(file), options.log)) return report;
  const isRepaired = report.corruptions === report.corruptionsFixed && report.checkErrors === 0;
  if (isInUse) report.corruptions++;
  const marked = 'the header says that the image is in use: it was not closed clean';
  const closes = isRepaired && (isInUse ? options.repair === 'all' : options.repair !== 'none' && report.leaks > 0);
  if (isInUse && !closes) log(`ERROR ${marked}`);
  if (!closes) return report;
  openPlain(file, {
    ...REPAIR_OPTIONS,
    log: () => undefined,
    openBacking: () => new UnopenedBacking('parallels', file.path),
  }).close();
  const after = checkBat(file, readHeader(file), { repair: 'none', log: () => undefined });
  report.leaksFixed = report.leaks - after.report.leaks;
  report.imageEndOffset = after.report.imageEndOffset;
  if (isInUse) {
    report.corruptionsFixed++;
    log(`Repaired: ${marked}; it is closed now`);
  }
  return report;
}

/** Walks a repaired image once more. */
function errorsIn(file: HostFile): number {
  const { report } = checkBat(file, readHeader(file), { repair: 'none', log: () => undefined });
  return report.corruptions + report.checkErrors;
}
