// An open image, read-only, whose disk is cut in pieces of one size, each of which lies as it is anywhere in a file, or nowhere
// and reads as zeros. What the table of a format says is read once, at the open; all threads share it, and there is no lock,
// because nothing changes the image.

import { after, type GuestOffset, hex, hostOffset } from '../bytes/offsets.ts';
import { ImgfuseError, isCorrupt } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';
import { readPadded } from '../host/host-file.ts';
import {
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type ReadOnlyImage,
  type SharedImage,
  type StatusRun,
  shareImage,
} from './image-format.ts';
import { sayThatItIsCut } from './truncated-copy.ts';

/** Pieces of one disk at most: 32 TiB of 1 MiB. */
export const MAX_PIECES = 2 ** 25;
/** Limit for the runs that one answer of mapStatus() merges, and for the pieces of one run. */
const MAX_LOOKS = 16384;

/** The state that all threads share. It does not change after the open. */
export interface PieceState {
  readonly details: ImageDetails;
  readonly pieceBytes: number;
  /** what the specification calls a piece, for the sentence of an error */
  readonly word: 'band' | 'chunk' | 'cluster';
  /** Float64: of each piece its host offset and 1; 0 for none; negative: the same of an entry that leads to no place */
  readonly places: SharedArrayBuffer;
  /** Uint16: of each piece the number of its file among those of the image; null: the image is one file */
  readonly holders: SharedArrayBuffer | null;
  readonly allocatedBytes: number;
}

/** The table of an image while it is read. */
export class PieceTable {
  private readonly places: Float64Array<SharedArrayBuffer>;
  private readonly holders: Uint16Array<SharedArrayBuffer> | null;
  private readonly diskBytes: number;
  private readonly pieceBytes: number;
  private bytes = 0;
  /** of each file, by its number, where the last piece in it begins */
  private readonly lastPlaces: number[] = [];

  /** @throws ImgfuseError limit */
  constructor(path: string, diskBytes: number, pieceBytes: number, hasExtents = false) {
    const count = Math.ceil(diskBytes / pieceBytes);
    if (count > MAX_PIECES) {
      const sentence = `${path}: its disk of ${diskBytes} bytes has ${count} pieces of ${pieceBytes} bytes; the limit is ${MAX_PIECES}`;
      throw new ImgfuseError('limit', sentence, { path });
    }
    this.places = new Float64Array(new SharedArrayBuffer(count * Float64Array.BYTES_PER_ELEMENT));
    this.holders = hasExtents ? new Uint16Array(new SharedArrayBuffer(count * Uint16Array.BYTES_PER_ELEMENT)) : null;
    this.diskBytes = diskBytes;
    this.pieceBytes = pieceBytes;
  }

  get count(): number {
    return this.places.length;
  }

  has(index: number): boolean {
    return this.places[index] !== 0;
  }

  /** What was said of the piece before does not count any more. @param holder number of the file among those of the image */
  set(index: number, place: number, holder = 0): void {
    if (this.holders !== null) this.holders[index] = holder;
    this.lastPlaces[holder] = Math.max(place, this.lastPlaces[holder] ?? 0);
    const isNew = !(this.places[index]! > 0);
    this.places[index] = place + 1;
    if (isNew) this.bytes += Math.min(this.pieceBytes, this.diskBytes - index * this.pieceBytes);
  }

  /** The entry at this host offset leads to no place: an error of whoever reads the piece. */
  setBad(index: number, entryAt: number, holder = 0): void {
    if (this.holders !== null) this.holders[index] = holder;
    this.places[index] = -entryAt - 1;
  }

  /** Says which files end before a piece that the table leads to: whoever reads that piece gets an error. */
  sayWhatIsCut(files: readonly HostFile[], log: (sentence: string) => void): void {
    for (const [number, file] of files.entries()) {
      const last = this.lastPlaces[number];
      if (last === undefined || last < file.size()) continue;
      sayThatItIsCut(file, last + this.pieceBytes, log);
    }
  }

  state(details: ImageDetails, word: PieceState['word']): PieceState {
    const shared = { places: this.places.buffer, holders: this.holders?.buffer ?? null };
    return { details, pieceBytes: this.pieceBytes, word, ...shared, allocatedBytes: this.bytes };
  }
}

export class PieceImage implements ReadOnlyImage {
  readonly format: string;
  readonly readOnly = true;
  readonly backing = null;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize: number;
  private readonly state: PieceState;
  private readonly places: Float64Array;
  private readonly holders: Uint16Array | null;

  /** @param extents files of the image beside `file` */
  constructor(file: HostFile, state: PieceState, extents: readonly HostFile[] = []) {
    this.format = state.details.format;
    this.file = file;
    this.files = [...onlyFile(file), ...extents.map((extent) => ({ role: 'extent' as const, file: extent }))];
    this.clusterSize = state.pieceBytes;
    this.state = state;
    this.places = new Float64Array(state.places);
    this.holders = state.holders === null ? null : new Uint16Array(state.holders);
  }

  virtualSize(): number {
    return this.state.details.virtualSize;
  }

  allocatedBytes(): number {
    return this.state.allocatedBytes;
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    for (let done = 0; done < length; ) {
      const run = this.map(after(offset, done), length - done);
      const at = targetOffset + done;
      if (run.hostOffset === undefined) target.fill(0, at, at + run.length);
      else readPadded(run.holder ?? this.file, target, at, run.length, hostOffset(run.hostOffset));
      done += run.length;
    }
  }

  map(offset: GuestOffset, length: number): Extent {
    const { holders, places } = this;
    const { pieceBytes, word } = this.state;
    const inPiece = offset % pieceBytes;
    const index = (offset - inPiece) / pieceBytes;
    const entry = places[index]!;
    const most = Math.min(Math.ceil((inPiece + length) / pieceBytes), MAX_LOOKS);
    const goesOn = (count: number): boolean =>
      places[index + count] === (entry === 0 ? 0 : entry + count * pieceBytes) &&
      (entry === 0 || holders?.[index + count] === holders?.[index]);
    let count = 1;
    while (count < most && goesOn(count)) count++;
    const part = Math.min(length, count * pieceBytes - inPiece);
    if (entry === 0) return { start: offset, length: part, status: 'unallocated' };
    const holder = this.files[holders?.[index] ?? 0]!.file;
    if (entry < 0)
      throw corrupt(holder, -entry - 1, `the entry of ${word} ${index} of the disk leads to no place of the file`);
    // a run ends before the piece that the file has lost
    const place = entry - 1 + inPiece;
    const inside = Math.min(part, holder.size() - place);
    if (inside <= 0) throw corrupt(holder, place, `${word} ${index} of the disk lies beyond the end of the file`);
    const run = { start: offset, length: inside, status: 'data', hostOffset: place } as const;
    return holder === this.file ? run : { ...run, holder };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    const { status, length: part } = this.map(offset, length);
    let total = part;
    try {
      for (let runs = 1; total < length && runs < MAX_LOOKS; runs++) {
        const next = this.map(after(offset, total), length - total);
        if (next.status !== status) break;
        total += next.length;
      }
    } catch (error) {
      // end the answer before the damaged part
      if (!isCorrupt(error)) throw error;
    }
    return { status, length: total };
  }

  /** Does not search for holes of the file: pieces are stored because they have data. */
  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.mapStatus(offset, length);
  }

  close(): void {}

  /** A dead thread leaves nothing behind: threads hold no locks here. */
  abandon(): void {}

  details(): ImageDetails {
    return this.state.details;
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}

function corrupt({ path }: HostFile, offset: number, what: string): ImgfuseError {
  const sentence = `${path}: at offset ${hex(offset)}: ${what}; copy the image again, or restore it from a backup`;
  return new ImgfuseError('corrupt', sentence, { path, offset });
}
