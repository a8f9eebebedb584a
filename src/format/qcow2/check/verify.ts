// What has to be true of an image before it is written, and what an image is told that was repaired. Every read-write open
// walks all tables once: an image that was not closed clean is repaired, another one in which something is wrong is refused
// before a byte of it changes. The dirty and the corrupt bit go only after a second look has found nothing.

import { ImgfuseError, isHostFull } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { CheckReport } from '../../check-report.ts';
import { trackedClusters } from '../../free-clusters.ts';
import { type CheckOptions, type OpenOptions, progressOf } from '../../image-format.ts';
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

/** An image that may be written, with what the walk found out. */
export interface Verified {
  /** as it is after a repair */
  readonly header: Qcow2Header;
  readonly check: Check;
  /** which clusters hold metadata */
  readonly metadata: SharedArrayBuffer;
}

/** `check`, with the repair that was asked for. */
export function checkQcow2(file: HostFile, options: CheckOptions): CheckReport {
  const header = readHeader(file, { readOnly: options.repair === 'none', check: true });
  const isCut = options.repair === 'all' && completeL1(file, header, options.log);
  const check = examine(file, header, options);
  if (isCut) check.wasCut();
  if (options.repair === 'all') check.repairAll();
  else {
    check.reportFlags();
    if (options.repair === 'leaks') check.repairLeaks();
  }
  const { report } = check;
  const isMarked = header.isDirty || header.isCorrupt;
  if (options.repair === 'all' && isSound(report) && (isMarked || report.corruptionsFixed > 0)) {
    // read back: a host that answers a write and does not do it must not make a damaged image look clean (R7)
    const again = readHeader(file, { readOnly: false, check: true });
    const left = look(file, again, { log: () => undefined }).report.corruptions;
    if (left === 0) clearMarks(file, again);
    else {
      report.checkErrors++;
      options.log(`ERROR ${left} corruptions are left after the repair: the host does not keep what is written to it`);
    }
  }
  return report;
}

/**
 * Makes a file that ends before its L1 table does long enough for it; what was missing reads as zeros, in the file as before.
 * @returns whether the file was too short
 */
function completeL1(file: HostFile, { l1Size, l1TableOffset }: Qcow2Header, log: (sentence: string) => void): boolean {
  const end = l1TableOffset + l1Size * 8;
  const size = file.size();
  if (l1Size === 0 || size >= end) return false;
  completeFile(file, l1TableOffset, end);
  log(
    `Repaired the length of the file: its ${size} bytes ended before its L1 table; it has ${end} now, and what the missing part ` +
      'mapped reads as zeros',
  );
  return true;
}

/** @throws ImgfuseError corrupt, and then nothing was changed unless the image was dirty and its repair went wrong */
export function verifyBeforeWriting(
  file: HostFile,
  header: Qcow2Header,
  { log, progress }: Pick<OpenOptions, 'log' | 'progress'>,
): Verified {
  const findings: string[] = [];
  const note = (sentence: string): void => {
    if (findings.length < 1000) findings.push(sentence);
  };
  const first = lookForMetadata(file, header, { log: note, ...progressOf(`checking ${file.path}`, progress) });
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
  const second = lookForMetadata(file, repaired, { log: note, ...again });
  if (second.check.dangers > 0) throw refusal(file, second.check.report.corruptions, findings);
  clearMarks(file, repaired);
  return verified(file, repaired, second);
}

/**
 * Gives back what a process that was killed had allocated and not linked, or removed and not lowered yet. As `check -r leaks`
 * does it: whatever made the clusters unreferenced is durable before a counter goes down (R5), and a crash in between leaves
 * fewer leaks. A leak that stays harms nobody, so the image is opened in any case.
 */
function reclaimLeaks(file: HostFile, header: Qcow2Header, check: Check, log: (sentence: string) => void): void {
  const { leaks } = check.report;
  const [low, high] = autoclearWhenWritten(header.autoclear);
  // a feature that is not known here may have clusters of its own, until its bit is durably gone
  const isAllKnown = low === header.autoclear[0] && high === header.autoclear[1];
  try {
    if (isAllKnown) check.repairLeaks();
  } catch (error) {
    // on a host that copies what is written over
    if (!isHostFull(error)) throw error;
  }
  const { leaksFixed } = check.report;
  if (leaksFixed > 0)
    log(
      `${file.path}: ${leaksFixed} clusters that nothing referred to, left by a process that was killed, are free again`,
    );
  if (leaksFixed < leaks)
    log(`${file.path} has ${leaks - leaksFixed} leaked clusters; imgfuse check -r leaks gives them back`);
}

/** What a look found, and where metadata is. */
interface Found {
  readonly check: Check;
  readonly runs: MetadataRuns;
}

function lookForMetadata(file: HostFile, header: Qcow2Header, options: WalkOptions): Found {
  const runs = new MetadataRuns();
  return { check: look(file, header, options, runs), runs };
}

/** An image that is refused has no map: its metadata may seem to be anywhere in a sparse file of any length. */
function verified(file: HostFile, header: Qcow2Header, { check, runs }: Found): Verified {
  const { clusterSize, size } = header;
  const capacity = trackedClusters(clusterSize, file.size(), size);
  const metadata = createMetadataClustersState(Math.ceil(file.size() / clusterSize), capacity);
  runs.markAll(new MetadataClusters(metadata));
  return { header, check, metadata };
}

function look(file: HostFile, header: Qcow2Header, options: WalkOptions, runs?: MetadataRuns): Check {
  const check = examine(file, header, {
    ...options,
    mark: runs === undefined ? undefined : (kind, first, count) => runs.add(kind, first, count),
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

/** Every corruption that was found is repaired; leaks may be left. */
function isSound(report: CheckReport): boolean {
  return report.corruptions === report.corruptionsFixed && report.checkErrors === 0;
}

/** Clears the dirty and the corrupt bit, after everything that was repaired is durable. */
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
