// The check of a QED image that nobody has open: its tables, what a repair has made of them, and its leaks.

import type { HostFile } from '../../host/host-file.ts';
import { believeRepair, type CheckReport, limitedLog } from '../check-report.ts';
import type { CheckOptions } from '../image-format.ts';
import { UnopenedBacking } from '../unopened-backing.ts';
import { checkTables } from './check.ts';
import { readHeader } from './header.ts';
import { errorsIn, isMarkedDirty, openQed } from './open.ts';

const REPAIR_OPTIONS = { readOnly: false, tableCacheBytes: 16 * 1024 * 1024, slots: 1, probed: false } as const;

/** Leaks are reclaimed by an open and a clean close, which is what makes them vanish in normal use as well. */
export function checkQed(file: HostFile, options: CheckOptions): CheckReport {
  const header = readHeader(file, { mayBeCut: true });
  // what a repair takes away is told for every entry: nothing else keeps its old value
  const log = options.repair === 'all' ? options.log : limitedLog(options.log);
  const { report, doubleReferences } = checkTables(file, header, { ...options, log });
  if (report.corruptionsFixed > 0) {
    const left = checkTables(file, header, { repair: 'none', log: () => undefined }).report;
    if (!believeRepair(report, errorsIn(left), options.log)) return report;
  }
  const repaired = report.corruptions === report.corruptionsFixed && report.checkErrors === 0;
  if (options.repair === 'none' || !repaired || (doubleReferences > 0 && options.repair !== 'all')) return report;
  const dirty = isMarkedDirty(header);
  if (report.leaks === 0 && !dirty && report.corruptions === 0) return report;
  const image = openQed(
    file,
    { ...REPAIR_OPTIONS, log: options.log, openBacking: () => new UnopenedBacking('qed', file.path) },
    true,
  );
  image.close();
  const after = checkTables(file, readHeader(file, { mayBeCut: true }), { repair: 'none', log: () => undefined });
  report.leaksFixed = report.leaks - after.report.leaks;
  report.imageEndOffset = after.report.imageEndOffset;
  return report;
}
