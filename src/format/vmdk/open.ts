// Opening a VMDK image: descriptor, the files of its extents, the image below, then each extent. Headers of all extents are looked at
// before any is opened, because an open for writing may repair one, and an open that fails changes nothing.

import { hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { AttachOptions, OpenOptions, ReadableImage, SharedImage, WritableImage } from '../image-format.ts';
import { createWriteTrackerState } from '../write-tracker.ts';
import { nextIdentity } from './commits.ts';
import {
  assertDistinct,
  connectVmdk,
  type ExtentState,
  type OpenExtent,
  type VmdkState,
  withoutRepeats,
} from './connect.ts';
import { withSectors } from './descriptor/edit.ts';
import { type Descriptor, type ExtentLine, hasFile, isFlat, parseDescriptor } from './descriptor/parse.ts';
import { type FoundDescriptor, findDescriptor, plainWriter, replaceText, settleText } from './descriptor/place.ts';
import { extentDetails } from './details.ts';
import type { ExtentFacts, ExtentKind } from './extent.ts';
import { createFlatState, FlatExtent, missingBytes } from './flat/extent.ts';
import { EXTENT_KINDS, kindOf } from './kinds.ts';
import { parentReference } from './parent.ts';
import { viewFrom } from './range-view.ts';
import { createSessionWords } from './session.ts';

/** A file that one or more extents lie in. */
interface ExtentFile {
  readonly name: string;
  readonly file: HostFile;
}

/** An extent whose file is open and whose header was looked at. */
interface Found {
  readonly line: ExtentLine;
  readonly start: number;
  /** of `files` of the image; null: none */
  readonly fileIndex: number | null;
  readonly file: HostFile | null;
  /** null: flat, or without a file */
  readonly tables: { readonly kind: ExtentKind; readonly facts: ExtentFacts } | null;
}

export function openVmdk(file: HostFile, wanted: OpenOptions): WritableImage {
  const options = { ...wanted, log: withoutRepeats(wanted.log) };
  const found = findDescriptor(file);
  const descriptor = parseDescriptor(found.text, file.path, found.embedding !== null);
  const files: ExtentFile[] = [];
  const extents = findExtents(file, found, descriptor, files, options);
  if (!options.readOnly) assertCanWrite(file, extents);
  sayWhatIsCut(extents, options);
  const reference = parentReference(descriptor, file.path);
  const backing = reference === null ? null : options.openBacking(reference);
  const opened = extents.map((extent, i) => openExtentImage(extent, backing, options, i === extents.length - 1));
  if (!options.readOnly) mendDescriptor(file, found, descriptor, extents, options);
  const state: VmdkState = {
    descriptor,
    place: found.place,
    words: createSessionWords(),
    tracker: createWriteTrackerState(),
    identity: nextIdentity(file.path, found.text, descriptor, options.committedFrom),
    readOnly: options.readOnly,
    isOneFile: found.embedding !== null,
    isOnlyRead: extents.some(({ tables }) => (tables?.facts.onlyRead ?? null) !== null),
    extents: extents.map(({ fileIndex, line, start, tables }, i): ExtentState => {
      const { facts = null, kind = null } = tables ?? {};
      return {
        fileIndex,
        line,
        start,
        kind: kind?.title ?? null,
        grainBytes: facts?.grainBytes ?? 0,
        details: extentDetails(file.path, line, facts, found.embedding !== null),
        state: opened[i]?.share().state ?? null,
      };
    }),
  };
  return connectVmdk(
    file,
    files.map((each) => each.file),
    backing,
    state,
    opened,
    options.log,
  );
}

export function attachVmdk(file: HostFile, shared: SharedImage, options: AttachOptions): WritableImage {
  const state = shared.state as VmdkState;
  const { backing, extents: others } = options;
  const log = withoutRepeats(options.log);
  const files = [file, ...others];
  const opened = state.extents.map(({ fileIndex, kind, start, state: own }): OpenExtent => {
    if (fileIndex === null) return null;
    const holder = files[fileIndex]!;
    if (kind === null) return new FlatExtent(holder, own as never, log);
    return kindNamed(kind).attach(holder, own, { slot: options.slot, backing: viewFrom(backing, start), log });
  });
  return connectVmdk(file, others, backing, state, opened, log);
}

function findExtents(
  file: HostFile,
  { embedding }: FoundDescriptor,
  { extents: lines }: Descriptor,
  files: ExtentFile[],
  { openExtent, readOnly }: OpenOptions,
): Found[] {
  if (embedding !== null) {
    if (lines.length !== 1) {
      throw refusal(
        'unsupported',
        file.path,
        `it has a descriptor of ${lines.length} extents in itself, which nobody writes`,
      );
    }
    // the name is the one that it had when it was made, and the header knows the size
    const line = { ...lines[0]!, length: embedding.facts.capacity };
    return [{ line, start: 0, fileIndex: 0, file, tables: embedding }];
  }
  assertDistinct(file.path, lines);
  let end = 0;
  return lines.map((line, i) => {
    const start = end;
    end += line.length;
    if (!hasFile(line)) return { line, start, fileIndex: null, file: null, tables: null };
    const fileIndex = indexOfFile(line.name!, file.path, lines, files, openExtent, readOnly);
    const holder = files[fileIndex - 1]!.file;
    const tables = isFlat(line) ? null : tablesOf(holder);
    // a resize that was cut short: the header comes first
    const isLast = i === lines.length - 1;
    const length = isLast && tables !== null ? tables.facts.capacity : line.length;
    return { line: { ...line, length }, start, fileIndex, file: holder, tables };
  });
}

/** A flat file may hold several extents, and is opened once. */
function indexOfFile(
  name: string,
  path: string,
  lines: readonly ExtentLine[],
  files: ExtentFile[],
  openExtent: OpenOptions['openExtent'],
  readOnly: boolean,
): number {
  const known = files.findIndex((each) => each.name === name);
  if (known !== -1) return known + 1;
  if (openExtent === undefined) throw refusal('unsupported', path, `its extent ${name} is another file`);
  const isWritten = !readOnly && lines.some((line) => line.name === name && line.access === 'RW');
  files.push({ name, file: openExtent(name, 'extent', isWritten ? 'write' : 'read') });
  return files.length;
}

function tablesOf(file: HostFile): Found['tables'] {
  const kind = kindOf(file);
  if (kind !== null) return { kind, facts: kind.inspect(file) };
  throw refusal('corrupt', file.path, 'it is to be an extent with tables, and does not begin like one');
}

function assertCanWrite({ path }: HostFile, extents: readonly Found[]): void {
  for (const { file, line, tables } of extents) {
    if (file === null || line.access === 'NOACCESS') continue;
    if (tables === null) {
      const missing = missingBytes(file, line.length, line.offset);
      if (missing === 0) continue;
      throw refusal(
        'corrupt',
        path,
        `its extent ${file.path} is too short by ${missing} bytes; mount with -o ro to read the rest`,
      );
    }
    if (line.access !== 'RW') continue;
    const { capacity, onlyRead } = tables.facts;
    if (onlyRead !== null) {
      throw new ImgfuseError('read-only', `${file.path} is ${onlyRead}`, { path: file.path });
    }
    if (capacity === line.length) continue;
    const said = `its extent ${file.path} has ${capacity} bytes, and the descriptor says ${line.length}`;
    throw refusal('corrupt', path, `${said}; mount with -o ro to read it`);
  }
}

function sayWhatIsCut(extents: readonly Found[], { log }: OpenOptions): void {
  for (const { file, line, tables } of extents) {
    const missing = file === null || tables !== null ? 0 : missingBytes(file, line.length, line.offset);
    if (missing > 0) log(`${file!.path} is truncated: its last ${missing} bytes are missing, and read as zeros`);
  }
}

function openExtentImage(
  { file, line, start, tables }: Found,
  backing: ReadableImage | null,
  options: OpenOptions,
  isLast: boolean,
): OpenExtent {
  if (file === null) return null;
  if (tables === null) {
    return new FlatExtent(file, createFlatState(line.length, hostOffset(line.offset)), options.log);
  }
  const { closedFacts, isLazy, log, progress, slots, tableCacheBytes } = options;
  return tables.kind.open(file, {
    closedFacts,
    isLazy,
    log,
    progress,
    slots,
    tableCacheBytes,
    readOnly: options.readOnly || file.readOnly,
    mayGrow: isLast,
    backing: viewFrom(backing, start),
  });
}

/** What was cut short is completed: a change of the text, and a resize, which leaves a line that says another size than the last extent. */
function mendDescriptor(
  file: HostFile,
  { isChanging, place }: FoundDescriptor,
  { extents: lines }: Descriptor,
  extents: readonly Found[],
  { log }: OpenOptions,
): void {
  const writer = plainWriter(file);
  if (isChanging) {
    settleText(file, place, writer);
    log(`${file.path}: a change of its descriptor was cut short, and is complete now`);
  }
  const { line, start, tables } = extents.at(-1)!;
  const before = lines.at(-1)!.length;
  if (tables === null || before === line.length) return;
  const [sectors, diskSectors] = [line.length / SECTOR_BYTES, (start + line.length) / SECTOR_BYTES];
  replaceText(file, place, (text) => withSectors(text, lines.length - 1, sectors, diskSectors), writer);
  log(`${file.path}: its last extent has ${line.length} bytes, and the descriptor said ${before}: it says so now`);
}

function kindNamed(title: string): ExtentKind {
  return EXTENT_KINDS.find((kind) => kind.title === title)!;
}

function refusal(kind: 'corrupt' | 'unsupported', path: string, what: string): ImgfuseError {
  return new ImgfuseError(kind, `${path} is not opened: ${what}`, { path });
}
