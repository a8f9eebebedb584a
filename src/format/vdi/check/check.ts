// `check` of a VDI image: the walk of its map, and what a repair does beside it. Leaks are reclaimed by an open and a clean
// close, which is what makes them vanish in normal use as well; the guest sees no change, so uuidModify stays.

import type { HostFile } from '../../../host/host-file.ts';
import { believeRepair, type CheckReport, limitedLog } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import { UnopenedBacking } from '../../unopened-backing.ts';
import { assertWritable, isWritable, readHeader } from '../header.ts';
import { openVdi } from '../open.ts';
import { checkMap } from './map-walk.ts';

const REPAIR_OPTIONS = { readOnly: false, tableCacheBytes: 16 * 1024 * 1024, slots: 1, probed: false } as const;

export function checkVdi(file: HostFile, options: CheckOptions): CheckReport {
  const header = readHeader(file);
  if (options.repair !== 'none' && !isWritable(header)) {
    const looked = checkMap(file, header, { ...options, repair: 'none', log: limitedLog(options.log) });
    if (looked.report.corruptions + looked.report.leaks > 0) assertWritable(file, header);
    return looked.report;
  }
  // what a repair takes away is told for every entry: nothing else keeps its old value
  const log = options.repair === 'all' ? options.log : limitedLog(options.log);
  const { report } = checkMap(file, header, { ...options, log });
  if (report.corruptionsFixed > 0 && !believeRepair(report, errorsIn(file), options.log)) return report;
  const isRepaired = report.corruptions === report.corruptionsFixed && report.checkErrors === 0;
  if (options.repair === 'none' || !isRepaired || report.leaks === 0) return report;
  const openBacking = () => new UnopenedBacking('vdi', file.path);
  openVdi(file, { ...REPAIR_OPTIONS, log: () => undefined, openBacking }).close();
  const after = checkMap(file, readHeader(file), { repair: 'none', log: () => undefined });
  report.leaksFixed = report.leaks - after.report.leaks;
  report.imageEndOffset = after.report.imageEndOffset;
  return report;
}

/** Walks a repaired image once more. */
function errorsIn(file: HostFile): number {
  const { corruptions, checkErrors } = checkMap(file, readHeader(file), {
    repair: 'none',
    log: () => undefined,
  }).report;
  return corruptions + checkErrors;
}
