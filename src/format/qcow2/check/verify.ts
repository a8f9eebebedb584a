// Decides whether an image may be written. Every read-write open checks all tables: it repairs an image that was not closed
// clean, and refuses any other image with corruptions before a byte of it changes. The dirty and the corrupt bit are cleared
// only after a second check has found nothing.

import type { SharedByteMapState } from '../../../concurrency/shared-byte-map.ts';
import { ImgfuseError, isHostFull } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { believeRepair, type CheckReport } from '../../check-report.ts';
import { type CheckOptions, type OpenOptions, progressOf } from '../../image-format.ts';
import { trackedClusters } from '../../mapped/free-clusters.ts';
import { completeFile } from '../../truncated-copy.ts';
import {
  autoclearWhenWritten,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DIRTY,
  type Qcow2Header,
  withoutBits,
  writeIncompatibleFeatures,
} from '../header/header.ts';
import { readHeader } from '../header/read-header.ts';
import { createMetadataClustersState, MetadataClusters, MetadataRuns } from '../metadata-clusters.ts';
import { type Check, examine } from './check.ts';
import type { WalkOptions } from './reference-walk.ts';

/** An image that may be written, with the result of its check. */
export interface Verified {
  /** read again after a repair */
  readonly header: Qcow2Header;
  readonly check: Check;
  /** which clusters hold metadata */
  readonly metadata: SharedByteMapState;
}

/** The command `check`, with the repair that `options` asks for. */
export function checkQcow2(file: HostFile, options: CheckOptions): CheckReport {
  const header = readHeader(file, { readOnly: options.repair === 'none', check: true });
  const isCut = options.repair === 'all' && completeL1(file, header, options.log);
  const check = examine(file, header, options);
  if (isCut) check.noteTruncatedL1();
  if (options.repair === 'all') check.repairAll();
  else {
    check.reportFlags();
    if (options.repair === 'leaks') check.repairLeaks();
  }
  const { report } = check;
  const isMarked = header.isDirty || header.isCorrupt;
  if (options.repair === 'all' && isSound(report) && (isMarked || report.corruptionsFixed > 0)) {
    // check again from the file: a host that drops writes must not make a damaged image look clean (R7)
    const again = readHeader(file, { readOnly: false, check: true });
    const left = examineWithFlags(file, again, { log: () => undefined }).report.corruptions;
    if (believeRepair(report, left, options.log)) clearMarks(file, again);
  }
  return report;
}

/**
 * Lengthens a file that ends before its L1 table does. The missing entries read as zeros, as they did before.
 * @returns whether the file was too short
 */
function completeL1(file: HostFile, { l1Size, l1TableOffset }: Qcow2Header, log: (sentence: string) => void): boolean {
  const end = l1TableOffset + l1Size * 8;
  const size = file.size();
  if (l1Size === 0 || size >= end) return false;
  completeFile(file, l1TableOffset, end);
  log(
    `Repaired the length of the file: its ${size} bytes ended before its L1 table, now it has ${end} bytes; the part of the disk ` +
      'that the missing entries mapped reads as zeros',
  );
  return true;
}

/**
 * Checks an image before its first write, and repairs it if it is dirty.
 * @throws ImgfuseError corrupt; the image is unchanged then, unless it was dirty and its repair failed
 */
export function verifyBeforeWriting(
  file: HostFile,
  header: Qcow2Header,
  { log, progress }: Pick<OpenOptions, 'log' | 'progress'>,
): Verified {
  const findings: string[] = [];
  const note = (sentence: string): void => {
    if (findings.length < 1000) findings.push(sentence);
  };
  const first = examineWithMetadata(file, header, { log: note, ...progressOf(`checking ${file.path}`, progress) });
  const { corruptions, leaks } = first.check.report;
  if (!header.isDirty) {
    if (first.check.dangers > 0) throw refusal(file, corruptions, findings);
    if (leaks > 0) reclaimLeaks(file, header, first.check, log);
    return verified(file, header, first);
  }
  if (!first.check.isRepairable) throw refusal(file, corruptions, findings);
  log(`${file.path} was not closed clean; checked: ${corruptions} corruptions, ${leaks} leaked clusters; repairing`);
  for (const finding of findings) log(finding);
  progress?.({ doing: `repairing ${file.path}` });
  first.check.repairAll();
  const repaired = readHeader(file, { readOnly: false });
  const again = progressOf(`checking ${file.path} after its repair`, progress);
  const second = examineWithMetadata(file, repaired, { log: note, ...again });
  if (second.check.dangers > 0) throw refusal(file, second.check.report.corruptions, findings);
  clearMarks(file, repaired);
  return verified(file, repaired, second);
}

/**
 * Frees clusters that a killed process had allocated but not linked, or unlinked but not freed, as `check -r leaks` does: the
 * unlinking is durable before a counter goes down (R5), and a crash in between leaves fewer leaks. A leak does no harm, so
 * the image is opened even if leaks are left.
 */
function reclaimLeaks(file: HostFile, header: Qcow2Header, check: Check, log: (sentence: string) => void): void {
  const { leaks } = check.report;
  const [low, high] = autoclearWhenWritten(header.autoclear);
  // an unknown feature may own clusters that this check cannot see, until its autoclear bit is durably cleared
  const isAllKnown = low === header.autoclear[0] && high === header.autoclear[1];
  try {
    if (isAllKnown) check.repairLeaks();
  } catch (error) {
    // a full copy-on-write host has no room even for overwriting a counter
    if (!isHostFull(error)) throw error;
  }
  const { leaksFixed } = check.report;
  if (leaksFixed > 0) log(`${file.path}: freed ${leaksFixed} leaked clusters, which a killed process had left`);
  if (leaksFixed < leaks)
    log(`${file.path} has ${leaks - leaksFixed} leaked clusters; imgfuse check -r leaks frees them`);
}

/** A check, and the clusters that hold metadata. */
interface Examined {
  readonly check: Check;
  readonly runs: MetadataRuns;
}

function examineWithMetadata(file: HostFile, header: Qcow2Header, options: WalkOptions): Examined {
  const runs = new MetadataRuns();
  return { check: examineWithFlags(file, header, options, runs), runs };
}

/** Makes the metadata map last, for accepted images only: in a hostile sparse file it could be of any size. */
function verified(file: HostFile, header: Qcow2Header, { check, runs }: Examined): Verified {
  const { clusterSize, size } = header;
  const metadata = createMetadataClustersState(trackedClusters(clusterSize, file.size(), size));
  runs.markAll(new MetadataClusters(metadata));
  return { header, check, metadata };
}

function examineWithFlags(file: HostFile, header: Qcow2Header, options: WalkOptions, runs?: MetadataRuns): Check {
  const check = examine(file, header, {
    mark: runs === undefined ? undefined : (kind, first, count) => runs.add(kind, first, count),
    ...options,
  });
  check.reportFlags();
  return check;
}

function refusal(file: HostFile, corruptions: number, findings: readonly string[]): ImgfuseError {
  const first = findings.find((finding) => finding.startsWith('ERROR '))?.slice('ERROR '.length) ?? 'see the log';
  return new ImgfuseError(
    'corrupt',
    `${file.path} has ${corruptions} corruptions and is not opened for writing: ${first}. ` +
      `See them with imgfuse check ${file.path}, repair a copy with imgfuse check -r all, or mount with -o ro`,
    { path: file.path },
  );
}

/** Whether every corruption is repaired; leaks may be left. */
function isSound(report: CheckReport): boolean {
  return report.corruptions === report.corruptionsFixed && report.checkErrors === 0;
}

/** Clears the dirty and the corrupt bit. The repair is made durable first, so a crash leaves the bits set. */
function clearMarks(file: HostFile, header: Qcow2Header): void {
  if (header.version !== 3 || !(header.isDirty || header.isCorrupt)) return;
  file.sync();
  writeIncompatibleFeatures(
    file,
    header,
    withoutBits(header.incompatible, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT),
  );
  file.sync();
}
