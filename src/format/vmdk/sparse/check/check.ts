// `check` of one extent: the walk of its tables, the repair, and what an open and a clean close do beside it: leaks are cut off, and
// the mark of an extent that was not closed clean is taken away.

import type { HostFile } from '../../../../host/host-file.ts';
import { believeRepair, type CheckReport, limitedLog } from '../../../check-report.ts';
import type { CheckExtentOptions } from '../../extent.ts';
import type { TableKind } from '../layout.ts';
import { openTables } from '../open.ts';
import { repairTables } from './repair.ts';
import { walkTables } from './table-walk.ts';

const REPAIR_OPTIONS = { readOnly: false, tableCacheBytes: 16 * 1024 * 1024, slots: 1, backing: null } as const;

export function checkTables(file: HostFile, kind: TableKind, options: CheckExtentOptions): CheckReport {
  const isRepair = options.repair === 'all';
  // what a repair takes away is told for every entry: nothing else keeps its old value
  const log = isRepair ? options.log : limitedLog(options.log);
  const layout = kind.readLayout(file);
  const found = walkTables(file, layout, { ...options, log: isRepair ? () => undefined : log });
  const { report } = found;
  const faults = [cutFault(file, found.cutEnd), kind.fault?.find(file, found.usedEnd) ?? null].filter(
    (fault) => fault !== null,
  );
  report.corruptions += faults.length;
  if (!isRepair) for (const fault of faults) log(`ERROR ${fault}`);
  if (isRepair && report.corruptions > 0) {
    repairTables(file, layout, found, log);
    kind.fault?.repair(file, Math.max(file.size(), found.usedEnd));
    file.sync();
    for (const fault of faults) log(`Repaired ${fault}`);
    report.corruptionsFixed = report.corruptions;
  }
  if (report.leaks > 0 && options.repair === 'none') {
    log(`Leaked clusters: there is room for ${report.leaks} grains behind the last one`);
  }
  const isSound = report.corruptions === report.corruptionsFixed;
  if (options.repair === 'none' || !isSound) return report;
  if (report.leaks === 0 && report.corruptions === 0 && !layout.isUnclean) return report;
  return closeClean(file, kind, report, options);
}

function cutFault(file: HostFile, cutEnd: number): string | null {
  if (cutEnd === 0) return null;
  return `the last grain: the file of ${file.size()} bytes ends inside it, ${cutEnd - file.size()} bytes before its end; the rest reads as zeros`;
}

/** Opens and closes a sound extent, and walks it once more. */
function closeClean(file: HostFile, kind: TableKind, report: CheckReport, { log }: CheckExtentOptions): CheckReport {
  const left = walkTables(file, kind.readLayout(file), { log: () => undefined });
  if (!believeRepair(report, left.report.corruptions, log)) return report;
  const extent = openTables(file, kind, { ...REPAIR_OPTIONS, log: () => undefined });
  extent.markUnclean();
  extent.close();
  const after = walkTables(file, kind.readLayout(file), { log: () => undefined });
  report.leaksFixed = report.leaks - after.report.leaks;
  const { allocatedClusters, fragmentedClusters, imageEndOffset } = after.report;
  Object.assign(report, { allocatedClusters, fragmentedClusters, imageEndOffset });
  return report;
}
