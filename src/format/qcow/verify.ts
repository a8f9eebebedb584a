// `check` of a qcow image: the walk of its tables, and what a repair does beside it. Leaks are reclaimed by an open and a close,
// which is what makes them vanish in normal use as well.

import type { HostFile } from '../../host/host-file.ts';
import { believeRepair, type CheckReport, limitedLog } from '../check-report.ts';
import type { CheckOptions } from '../image-format.ts';
import { UnopenedBacking } from '../unopened-backing.ts';
import { checkTables } from './check.ts';
import { readHeader } from './header.ts';
import { openQcow } from './open.ts';

const REPAIR_OPTIONS = { readOnly: false, tableCacheBytes: 16 * 1024 * 1024, slots: 1, probed: false } as const;

export function checkQcow(file: HostFile, options: CheckOptions): CheckReport {
  const header = readHeader(file);
  // what a repair takes away is told for every entry: nothing else keeps its old value
  const log = options.repair === 'all' ? options.log : limitedLog(options.log);
  const { report, unaligned } = checkTables(file, header, { ...options, log });
  if (report.corruptionsFixed > 0 && !believeRepair(report, errorsIn(file), options.log)) return report;
  const isRepaired = report.corruptions === report.corruptionsFixed && report.checkErrors === 0;
  if (options.repair === 'none' || !isRepaired || report.leaks === 0 || unaligned > 0) return report;
  const openBacking = () => new UnopenedBacking('qcow', file.path);
  // no byte of the guest's is read or written, so any key will do
  const password = () => new Uint8Array(1);
  openQcow(file, { ...REPAIR_OPTIONS, log: () => undefined, openBacking, password }).close();
  const after = checkTables(file, readHeader(file), { repair: 'none', log: () => undefined });
  report.leaksFixed = report.leaks - after.report.leaks;
  report.imageEndOffset = after.report.imageEndOffset;
  return report;
}

/** Walks a repaired image once more. */
function errorsIn(file: HostFile): number {
  const { corruptions, checkErrors } = checkTables(file, readHeader(file), {
    repair: 'none',
    log: () => undefined,
  }).report;
  return corruptions + checkErrors;
}
