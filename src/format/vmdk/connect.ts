// What an open image is made of: the extents in their places, the descriptor that changes, and what all threads share.

import { SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageFile, ReadableImage } from '../image-format.ts';
import { WriteTracker } from '../write-tracker.ts';
import { type NewIdentity, withParent } from './descriptor/edit.ts';
import { type Descriptor, type ExtentLine, isFlat } from './descriptor/parse.ts';
import type { DescriptorPlace } from './descriptor/place.ts';
import { describe, type ExtentDetails } from './details.ts';
import type { Extent } from './extent.ts';
import { ExtentTable, type PlacedExtent } from './extents.ts';
import { ClosedExtent, ZeroExtent } from './fixed-extents.ts';
import { FlatExtent } from './flat/extent.ts';
import { VmdkImage } from './image.ts';
import { renamedParent } from './parent.ts';
import { resizeVmdk, writeSize } from './resize.ts';
import { WritingSession } from './session.ts';

/** One extent as other threads attach to it: plain data and the state of its kind. */
export interface ExtentState {
  readonly line: ExtentLine;
  readonly start: number;
  /** of the files of the image; null: none */
  readonly fileIndex: number | null;
  /** title of its kind; null: flat, or without a file */
  readonly kind: string | null;
  readonly grainBytes: number;
  readonly details: ExtentDetails;
  readonly state: unknown;
}

export interface VmdkState {
  readonly descriptor: Descriptor;
  readonly place: DescriptorPlace;
  /** what the first change stores */
  readonly identity: NewIdentity;
  readonly words: SharedArrayBuffer;
  /** of the descriptor */
  readonly tracker: SharedArrayBuffer;
  readonly readOnly: boolean;
  readonly isOneFile: boolean;
  readonly isOnlyRead: boolean;
  readonly extents: readonly ExtentState[];
}

/** null: it has no file */
export type OpenExtent = Extent | FlatExtent | null;

/** @param others the files of the image beside the one of the descriptor @param opened its extents, in their order */
export function connectVmdk(
  file: HostFile,
  others: readonly HostFile[],
  backing: ReadableImage | null,
  state: VmdkState,
  opened: readonly OpenExtent[],
  log: (sentence: string) => void,
): VmdkImage {
  const { descriptor, identity, isOneFile, isOnlyRead, place, readOnly } = state;
  const extents = new ExtentTable(state.extents.map((extent, i) => placed(file.path, extent, opened[i]!, readOnly)));
  const tracker = new WriteTracker(state.tracker, file, log);
  const session = new WritingSession(state.words, { file, place, identity, tracker, extents });
  const { path } = file;
  const files: ImageFile[] = [
    { role: 'image', file },
    ...others.map((other) => ({ role: 'extent' as const, file: other })),
  ];
  const details = state.extents.map((extent) => extent.details);
  const parts = {
    file,
    files,
    readOnly,
    backing,
    extents,
    session,
    tracker,
    isOneFile,
    resize: (size: number) => resizeVmdk({ path, extents, session, createType: descriptor.createType }, size),
    writeSize: () => writeSize({ extents, session }),
    adoptParent: (identity: string) => session.edit((text) => withParent(text, renamedParent(descriptor, identity))),
    describe: (isChanged: boolean, virtualSize: number, isDirty: boolean) => {
      const { modification } = descriptor.uuids;
      const cid = isChanged ? identity.cid : descriptor.cid;
      const modificationUuid = isChanged && modification !== null ? identity.modificationUuid : modification;
      return describe({ path, descriptor, extents: details, cid, modificationUuid, virtualSize, isDirty, isOnlyRead });
    },
  };
  return new VmdkImage(parts, state);
}

function placed(path: string, state: ExtentState, image: OpenExtent, readOnly: boolean): PlacedExtent {
  const { grainBytes, line, start } = state;
  const file = image?.file ?? null;
  const reader =
    image ?? (line.access === 'NOACCESS' ? new ClosedExtent(line.length, path) : new ZeroExtent(line.length));
  const writer = readOnly || line.access !== 'RW' || image === null || image.readOnly ? null : image;
  const tables = writer === null || writer instanceof FlatExtent ? null : writer;
  return { start, line, grainBytes, file, image, reader, writer, tables };
}

/** An extent that fails, and the image that fails with it, say the same of one file. */
export function withoutRepeats(log: (sentence: string) => void): (sentence: string) => void {
  let last = '';
  return (sentence) => {
    if (sentence !== last) log(sentence);
    last = sentence;
  };
}

/** Two extents in the same bytes would be two names of the same data. @throws ImgfuseError corrupt */
export function assertDistinct(path: string, lines: readonly ExtentLine[]): void {
  const seen = new Map<string, ExtentLine[]>();
  for (const line of lines) {
    if (line.name === null) continue;
    const others = seen.get(line.name) ?? [];
    const isApart = (other: ExtentLine): boolean => {
      const areFlat = isFlat(line) && isFlat(other);
      return areFlat && (line.offset + line.length <= other.offset || other.offset + other.length <= line.offset);
    };
    if (!others.every(isApart)) {
      const what = `it names the extent ${line.name} twice, for the same ${SECTOR_BYTES}-byte sectors`;
      throw new ImgfuseError('corrupt', `${path} is not opened: ${what}`, { path });
    }
    seen.set(line.name, [...others, line]);
  }
}
