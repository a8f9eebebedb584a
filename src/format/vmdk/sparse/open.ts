// Opening an extent whose tables map its grains in place, hosted sparse or COWD. A read-write open walks the tables, so that no write
// starts from an entry that is not true, unless it is known that nothing has changed since imgfuse closed the extent clean. One that
// was not closed clean is repaired: its tables are made equal, and space that nothing refers to is used again.

import { SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { plural } from '../../../errors/plural.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type CheckReport, limitedLog } from '../../check-report.ts';
import { countOf } from '../../closed-facts.ts';
import { progressOf } from '../../image-format.ts';
import { FreeClusters } from '../../mapped/free-clusters.ts';
import { COUNTED_TABLE_BYTES, clustersOnHost, possibleClusters } from '../../mapped/host-clusters.ts';
import { type DataInFile, sayWhatIsCut } from '../../truncated-copy.ts';
import type { OpenExtentOptions } from '../extent.ts';
import { repairTables } from './check/repair.ts';
import { Directories, readEntries, type TableWalk, walkTables } from './check/table-walk.ts';
import { Geometry } from './geometry.ts';
import { SparseExtent } from './image.ts';
import { directoryEntries, type TableKind, type TableLayout } from './layout.ts';
import { createSparseState, type SparseState } from './state.ts';
import { reclaimUnused } from './unused-space.ts';

export function openTables(file: HostFile, kind: TableKind, options: OpenExtentOptions): SparseExtent {
  const layout = kind.readLayout(file);
  const state = options.readOnly ? openReadOnly(file, layout, options) : openWritable(file, layout, options);
  return new SparseExtent(file, state, 0, options.backing, options.log, kind);
}

/** Checks nothing but the header: each entry is checked by the read that meets it. */
function openReadOnly(file: HostFile, layout: TableLayout, options: OpenExtentOptions): SparseState {
  const { capacity, grainBytes, isUnclean } = layout;
  if (isUnclean) options.log(`${file.path} was not closed clean; it is read as it is, because it is opened read-only`);
  const found = options.isLazy === true ? null : dataIn(file, layout);
  if (found !== null) sayWhatIsCut(file, found, { bytes: capacity, clusterSize: grainBytes }, options.log);
  const estimate = options.isLazy === true ? clustersOnHost : possibleClusters;
  const allocatedClusters = found?.clusters ?? estimate(file, capacity, grainBytes);
  const fileLength = file.size();
  const place = { fileLength, virtualSize: capacity, usedEnd: fileLength, phase: 0 };
  return createSparseState(layout, { allocatedClusters, ...options, ...place });
}

/** @returns null if there are so many tables that counting would take a noticeable time */
function dataIn(file: HostFile, layout: TableLayout): DataInFile | null {
  const { grainBytes, hasZeroGrains, tableEntries } = layout;
  if (directoryEntries(layout) * tableEntries * 4 > COUNTED_TABLE_BYTES) return null;
  const directories = new Directories(file, layout);
  directories.mark(() => undefined);
  let [clusters, last] = [0, 0];
  directories.forEachPair(({ table }) => {
    if (table === 0) return;
    for (const entry of readEntries(file, table, tableEntries)) {
      if (entry <= (hasZeroGrains ? 1 : 0)) continue;
      clusters++;
      last = Math.max(last, entry);
    }
  });
  return { clusters, end: last === 0 ? 0 : last * SECTOR_BYTES + grainBytes };
}

function openWritable(file: HostFile, layout: TableLayout, options: OpenExtentOptions): SparseState {
  const { path } = file;
  if (file.isDevice) {
    const message = `${path} is a block device, and a sparse VMDK extent grows with its file; mount it with -o ro, or copy it to a file`;
    throw new ImgfuseError('unsupported', message, { path });
  }
  const fileLength = file.size();
  const known = closedAs(layout, options);
  if (known !== null) {
    const place = { usedEnd: fileLength, virtualSize: layout.capacity };
    return createSparseState(layout, { fileLength, ...options, ...place, ...known });
  }
  const walk = repairIfUnclean(file, layout, options, walkOrRefuse(file, layout, options));
  if (walk.cutEnd > 0) {
    file.truncate(walk.cutEnd);
    options.log(`${path} ended inside its last grain, which reads as zeros from there on`);
  }
  if (layout.isUnclean) cutTail(file, walk.usedEnd);
  const state = createSparseState(layout, {
    fileLength: file.size(),
    ...options,
    virtualSize: layout.capacity,
    usedEnd: walk.usedEnd,
    phase: walk.phase,
    allocatedClusters: walk.report.allocatedClusters,
  });
  reclaimUnused(new FreeClusters(state.free), new Geometry(layout, walk.phase), walk);
  return state;
}

/** What is known of an extent that was closed clean and not touched since; null if it is not that extent. */
function closedAs(
  { capacity, grainBytes, isUnclean }: TableLayout,
  { closedFacts }: OpenExtentOptions,
): { readonly allocatedClusters: number; readonly phase: number } | null {
  if (closedFacts === undefined || isUnclean) return null;
  const allocatedClusters = countOf(closedFacts, 'allocatedClusters', Math.ceil(capacity / grainBytes));
  const phase = countOf(closedFacts, 'phase', grainBytes - 1);
  if (allocatedClusters === null || phase === null || phase % SECTOR_BYTES !== 0) return null;
  return { allocatedClusters, phase };
}

/** Walks all tables and writes nothing. @throws corrupt for what cannot be repaired safely */
function walkOrRefuse(file: HostFile, layout: TableLayout, options: OpenExtentOptions): TableWalk {
  const finding = new FirstFinding();
  const steps = progressOf(`checking ${file.path}`, options.progress);
  const found = walkTables(file, layout, { log: finding.note, ...steps });
  const { doubleReferences, report } = found;
  if (report.corruptions === 0 || (layout.isUnclean && doubleReferences === 0)) return found;
  const doubles = doubleReferences > 0 ? `, ${doubleReferences} of them grains used twice` : '';
  throw new ImgfuseError(
    'corrupt',
    `${file.path}: its tables have ${plural(report.corruptions, 'error')}${doubles}, the first: ${finding.sentence}; ` +
      'it is not opened for writing. See them with imgfuse check, repair a copy with imgfuse check -r all, or mount with -o ro',
    { path: file.path },
  );
}

/** Repairs the tables of an extent that was not closed clean, and says so. @returns what they are then */
function repairIfUnclean(file: HostFile, layout: TableLayout, options: OpenExtentOptions, found: TableWalk): TableWalk {
  if (!layout.isUnclean) return found;
  const { path } = file;
  const { corruptions, leaks } = found.report;
  if (corruptions === 0) {
    options.log(`${path} was not closed clean; checked: no errors, ${leaks} leaked grains will be reclaimed`);
    return found;
  }
  options.log(`${path} was not closed clean; repairing ${plural(corruptions, 'error')}`);
  repairTables(file, layout, found, limitedLog(options.log));
  // read back: a host that answers a write and does not do it must not make a damaged extent look clean (R7)
  const finding = new FirstFinding();
  const again = progressOf(`checking ${path} after its repair`, options.progress);
  const repaired = walkTables(file, layout, { log: finding.note, ...again });
  if (isSound(repaired.report)) return repaired;
  throw new ImgfuseError(
    'corrupt',
    `${path} was repaired, and its tables still have ${plural(repaired.report.corruptions, 'error')}, the first: ${finding.sentence}; ` +
      'the host does not keep what is written to it. It stays marked as not clean: copy it to another disk, and repair the copy ' +
      'with imgfuse check -r all',
    { path },
  );
}

/** The first sentence of a check, which a refusal quotes. */
class FirstFinding {
  sentence = '';
  readonly note = (sentence: string): void => {
    if (this.sentence === '') this.sentence = sentence.replace(/^ERROR /, '');
  };
}

function isSound({ corruptions }: CheckReport): boolean {
  return corruptions === 0;
}

/**
 * What a crash left behind the last grain in use, above all the space that was taken ahead. That nothing refers to it may not be
 * durable yet (R5), and the cut is durable before anything is allocated there.
 */
function cutTail(file: HostFile, usedEnd: number): void {
  if (file.size() <= usedEnd) return;
  file.sync();
  file.truncate(usedEnd);
  file.sync();
}
