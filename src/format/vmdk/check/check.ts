// The check of an image: each extent by its own tables, and what the descriptor says of them. Where the two differ in size the extent
// is believed, as in every open; only the line of the last extent can be mended, because another one would move what follows it.

import { SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type CheckReport, emptyCheckReport } from '../../check-report.ts';
import type { CheckOptions } from '../../image-format.ts';
import { assertDistinct } from '../connect.ts';
import { withSectors } from '../descriptor/edit.ts';
import { type ExtentLine, hasFile, isFlat, parseDescriptor } from '../descriptor/parse.ts';
import { type FoundDescriptor, findDescriptor, plainWriter, replaceText, settleText } from '../descriptor/place.ts';
import type { ExtentKind } from '../extent.ts';
import { missingBytes } from '../flat/extent.ts';
import { kindOf } from '../kinds.ts';
import { parentReference } from '../parent.ts';

/** @throws ImgfuseError unsupported if none of the extents has a check */
export function checkVmdk(file: HostFile, options: CheckOptions): CheckReport {
  const found = findDescriptor(file);
  const descriptor = parseDescriptor(found.text, file.path, found.embedding !== null);
  const { extents: lines } = descriptor;
  const report = emptyCheckReport('vmdk');
  if (found.isChanging) checkChange(report, file, found, options);
  const hasBacking = parentReference(descriptor, file.path) !== null;
  if (found.embedding !== null) {
    addTables(report, file, found.embedding.kind, hasBacking, options, 0, 1);
    return report;
  }
  assertDistinct(file.path, lines);
  const files = new Map<string, HostFile>();
  for (const [i, line] of lines.entries()) {
    if (!hasFile(line)) continue;
    const holder = files.get(line.name!) ?? openFor(line, lines, file, options);
    files.set(line.name!, holder);
    if (isFlat(line)) {
      checkFlat(report, holder, line, options);
      continue;
    }
    const kind = kindOf(holder);
    if (kind === null) throw notOne(holder);
    addTables(report, holder, kind, hasBacking, options, i, lines.length);
    checkLine(report, { file, found, lines }, i, kind.inspect(holder).capacity, options);
  }
  // of several files none is the end of the image
  if (files.size > 1) report.imageEndOffset = 0;
  return report;
}

function openFor(
  { name }: ExtentLine,
  lines: readonly ExtentLine[],
  { path }: HostFile,
  { openExtent, repair }: CheckOptions,
): HostFile {
  if (openExtent === undefined) {
    throw new ImgfuseError('unsupported', `${path} is not checked: its extent ${name} is another file`, { path });
  }
  const isMended = repair !== 'none' && lines.some((line) => line.name === name && line.access === 'RW');
  return openExtent(name!, 'extent', isMended ? 'write' : 'read');
}

/** The check of extent number `index` of `count`, added to what is known. */
function addTables(
  report: CheckReport,
  file: HostFile,
  kind: ExtentKind,
  hasBacking: boolean,
  { log, progress, repair }: CheckOptions,
  index: number,
  count: number,
): void {
  if (kind.check === undefined) {
    const message = `${file.path} is ${kind.title}, and that kind of extent has no check`;
    throw new ImgfuseError('unsupported', message, { path: file.path, operation: 'check' });
  }
  const steps = progress === undefined ? {} : { progress: (part: number) => progress((index + part) / count) };
  const own = kind.check(file, { hasBacking, log, repair: file.readOnly ? 'none' : repair, ...steps });
  for (const key of COUNTERS) report[key] += own[key];
  report.imageEndOffset = own.imageEndOffset;
}

const COUNTERS = [
  'totalClusters',
  'allocatedClusters',
  'fragmentedClusters',
  'compressedClusters',
  'corruptions',
  'leaks',
  'corruptionsFixed',
  'leaksFixed',
  'checkErrors',
] as const;

function checkFlat(report: CheckReport, file: HostFile, line: ExtentLine, { log, repair }: CheckOptions): void {
  const missing = missingBytes(file, line.length, line.offset);
  if (missing === 0) return;
  log(`ERROR extent ${file.path} is too short by ${missing} bytes`);
  report.corruptions++;
  if (repair !== 'all' || file.readOnly) return;
  file.truncate(line.offset + line.length);
  file.sync();
  report.corruptionsFixed++;
}

/** Programs that do not know of the change see a mixture. */
function checkChange(
  report: CheckReport,
  file: HostFile,
  { place }: FoundDescriptor,
  { log, repair }: CheckOptions,
): void {
  log('ERROR a change of the descriptor was cut short');
  report.corruptions++;
  if (repair !== 'all') return;
  settleText(file, place, plainWriter(file));
  report.corruptionsFixed++;
}

interface CheckedDescriptor {
  readonly file: HostFile;
  readonly found: FoundDescriptor;
  readonly lines: readonly ExtentLine[];
}

function checkLine(
  report: CheckReport,
  { file, found, lines }: CheckedDescriptor,
  index: number,
  capacity: number,
  { log, repair }: CheckOptions,
): void {
  const { length, name } = lines[index]!;
  if (capacity === length) return;
  log(`ERROR extent ${name} has ${capacity} bytes, and the descriptor says ${length}`);
  report.corruptions++;
  if (repair !== 'all' || index !== lines.length - 1) return;
  const before = lines.slice(0, -1).reduce((bytes, line) => bytes + line.length, 0);
  const [sectors, diskSectors] = [capacity / SECTOR_BYTES, (before + capacity) / SECTOR_BYTES];
  replaceText(file, found.place, (text) => withSectors(text, index, sectors, diskSectors), plainWriter(file));
  report.corruptionsFixed++;
}

function notOne({ path }: HostFile): ImgfuseError {
  return new ImgfuseError('corrupt', `${path} is to be an extent with tables, and does not begin like one`, { path });
}
