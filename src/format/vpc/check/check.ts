// The check of an image, as the command asks for it: footers and header, then the table, then what lies behind the last block.

import type { HostFile } from '../../../host/host-file.ts';
import { believeRepair, type CheckReport, emptyCheckReport, limitedLog } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import { nothingAtTheEnd } from '../../truncated-copy.ts';
import { finishResize } from '../fixed/resize.ts';
import { FAULTS, isSparse, type Layout, readLayout, type SparseLayout } from '../header/layout.ts';
import { AT_THE_END, cutTail, repairLayout } from './repair.ts';
import { checkTable } from './table-walk.ts';

/** Blocks are what the report calls clusters. A fixed disk has none. */
export function checkVpc(file: HostFile, options: CheckOptions): CheckReport {
  const report = checkOnce(file, options);
  if (report.corruptionsFixed === 0) return report;
  const left = checkOnce(file, { ...options, repair: 'none', log: () => undefined });
  const isKnown = report.corruptions - report.corruptionsFixed;
  believeRepair(report, Math.max(0, left.corruptions - isKnown) + left.checkErrors, options.log);
  return report;
}

function checkOnce(file: HostFile, options: CheckOptions): CheckReport {
  const log = options.repair === 'all' ? options.log : limitedLog(options.log);
  const found = readLayout(file);
  const before = isSparse(found) ? checkTable(file, found, { repair: 'none', log: () => undefined }) : null;
  // where the last bytes of the file are the first ones of a block that was cut off, a footer would take their place
  const isCut = before !== null && before.cutOff > 0;
  const mended = options.repair === 'all' ? found.faults.filter((fault) => !isCut || !AT_THE_END.includes(fault)) : [];
  const isMended = mended.length > 0;
  if (isMended) repairLayout(file, found, before?.usedEnd ?? found.trailerOffset, mended);
  const layout = isMended ? readLayout(file) : found;
  const report = isSparse(layout) ? checkBlocks(file, layout, { ...options, log }) : checkFixed(file, layout, options);
  for (const fault of found.faults) {
    report.corruptions++;
    const isFixed = mended.includes(fault);
    if (isFixed) report.corruptionsFixed++;
    log(isFixed ? `Repaired: ${FAULTS[fault].what}: ${FAULTS[fault].repair}` : `ERROR ${FAULTS[fault].what}`);
  }
  if (isCut && options.repair === 'all') log(nothingAtTheEnd('a block would end'));
  return report;
}

function checkFixed(file: HostFile, layout: Layout, { log, repair }: CheckOptions): CheckReport {
  const report = emptyCheckReport('vpc');
  report.imageEndOffset = file.size();
  const { footer, trailerOffset } = layout;
  // whoever may write is refused such a file, so this is a check that repairs nothing
  if (footer.size > trailerOffset) {
    report.corruptions++;
    log(
      `ERROR the footer says that the disk has ${footer.size} bytes, and the file has ${trailerOffset} before it; it was cut`,
    );
    return report;
  }
  if (layout.cutShort === null) return report;
  report.corruptions++;
  if (repair === 'all') {
    finishResize(file, layout.footer.bytes, layout.footer.size, layout.cutShort);
    report.corruptionsFixed++;
    report.imageEndOffset = file.size();
    log(`Repaired: a resize was cut short, and is finished: the disk has ${layout.size} bytes`);
  } else log('ERROR a resize was cut short');
  return report;
}

function checkBlocks(file: HostFile, layout: SparseLayout, options: CheckOptions): CheckReport {
  const { report, usedEnd } = checkTable(file, layout, options);
  const { leaks } = report;
  if (leaks === 0) return report;
  // what an entry that is no place has lost may lie there
  if (options.repair === 'none' || report.corruptions > report.corruptionsFixed || layout.faults.length > 0) {
    options.log(`Leaked clusters: behind the last block there is room for ${leaks} blocks`);
    return report;
  }
  cutTail(file, layout.footer.bytes, usedEnd);
  report.leaksFixed = leaks;
  options.log(`Repaired: room for ${leaks} blocks behind the last one was cut off`);
  return report;
}
