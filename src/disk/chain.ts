// A backing chain as one disk: what its images say together of a range. The image nearest to the guest decides; what it
// leaves unallocated is asked of the image below, as far as that one reaches, and reads as zeros beyond.

import { guestOffset } from '../bytes/offsets.ts';
import { type Extent, imageChain, type ReadableImage, type SnapshotImage } from '../format/image-format.ts';
import { type HostFile, possibleDataBytes } from '../host/host-file.ts';

/** How long the tables are walked for a status. */
const SHARE_MS = 100;

/** An extent through the whole chain; `depth` 0 is the image itself. */
export interface ChainExtent extends Omit<Extent, 'holder'> {
  readonly depth: number;
  /** the image file that holds the data, or that says zero */
  readonly path: string;
}

/** The bytes from some offset on, as far as they are known to be data or to read as zeros without being stored. */
export interface DataRun {
  readonly isData: boolean;
  readonly length: number;
}

/** Bytes of the virtual disk. */
export interface DiskShare {
  readonly local: number;
  readonly below: number;
}

/** The range that a search for data looks at first; it doubles, so that data that is near costs little. */
const FIRST_SEEK_BYTES = 64 * 1024 * 1024;

/** All files of the whole chain; an image file comes after the others of its image. */
export function chainFiles(image: ReadableImage): HostFile[] {
  return imageChain(image).flatMap(({ files }) => files.map(({ file }) => file).reverse());
}

/** An upper bound of the bytes of the disk that may be data; walks no table. */
export function chainOccupiedBytes(image: SnapshotImage): number {
  let bytes = image.allocatedBytes();
  for (let below = image.backing; below !== null; below = below.backing) {
    bytes += Math.max(below.allocatedBytes(), dataBytesOf(below));
  }
  return Math.min(bytes, image.virtualSize());
}

/** Walks the tables of this image only. @returns null if there is no backing file, or if the tables take too long */
export function shareOf(image: ReadableImage): DiskShare | null {
  const { backing } = image;
  if (backing === null) return null;
  const until = performance.now() + SHARE_MS;
  const end = image.virtualSize();
  const covered = Math.min(end, backing.virtualSize());
  let below = 0;
  for (let at = 0; at < covered; ) {
    if (performance.now() > until) return null;
    const { length, status } = image.mapStatus(guestOffset(at), covered - at);
    if (status === 'unallocated') below += length;
    at += length;
  }
  return { local: end - below, below };
}

/** An upper bound of the bytes of data in the files of an image; its own file counts only if there is no other. */
function dataBytesOf({ files }: ReadableImage): number {
  const holders = files.length === 1 ? files : files.filter(({ role }) => role !== 'image');
  return holders.reduce((bytes, { file }) => bytes + possibleDataBytes(file), 0);
}

/** Whether there is data at `offset`, and for how many bytes from there that is sure: at most `length`. */
export function chainDataRun(image: SnapshotImage, offset: number, length: number): DataRun {
  const { status, length: part } = image.mapContent(guestOffset(offset), length);
  const { backing } = image;
  if (status !== 'unallocated' || backing === null) return { isData: status === 'data', length: part };
  const inside = Math.min(part, backing.virtualSize() - offset);
  // the images below are asked until the end of the run, so that this image is not asked again for each of their runs
  for (let done = 0; done < inside; ) {
    const below = chainDataRun(backing, offset + done, inside - done);
    if (below.isData) return done === 0 ? below : { isData: false, length: done };
    done += below.length;
  }
  return { isData: false, length: part };
}

/** The first offset from `offset` on that has data, or has none; `end` if there is no such offset before it. */
export function chainSeek(image: SnapshotImage, offset: number, wantsData: boolean, end = image.virtualSize()): number {
  let step = FIRST_SEEK_BYTES;
  for (let at = offset; at < end; step *= 2) {
    const { isData, length } = chainDataRun(image, at, Math.min(end - at, step));
    if (isData === wantsData) return at;
    at += length;
  }
  return end;
}

/** Without spreads, which take most of the time of a map of millions of extents. */
function inChain({ start, length, status, hostOffset, isHole }: Extent, depth: number, path: string): ChainExtent {
  const extent: { -readonly [Field in keyof ChainExtent]: ChainExtent[Field] } = { start, length, status, depth, path };
  if (hostOffset !== undefined) extent.hostOffset = hostOffset;
  if (isHole !== undefined) extent.isHole = isHole;
  return extent;
}

/** Each image is asked about a range once, however many extents the images below it have there. */
export function* chainExtents(
  image: ReadableImage,
  offset: number,
  end: number,
  depth = 0,
): Generator<ChainExtent, void> {
  const { backing } = image;
  for (let at = offset; at < end; ) {
    const extent = image.map(guestOffset(at), end - at);
    const next = at + extent.length;
    if (extent.status !== 'unallocated' || backing === null) {
      yield inChain(extent, depth, (extent.holder ?? image.file).path);
    } else {
      const covered = Math.max(at, Math.min(next, backing.virtualSize()));
      yield* chainExtents(backing, at, covered, depth + 1);
      if (covered < next)
        yield { start: covered, length: next - covered, status: 'unallocated', depth, path: image.file.path };
    }
    at = next;
  }
}
