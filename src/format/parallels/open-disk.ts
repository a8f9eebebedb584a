// Opening a Parallels disk of several files to read: the BATs of all of them become one table of places. A file that was not closed
// clean is read as it is.

import { hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { OpenOptions } from '../image-format.ts';
import { PieceImage, PieceTable } from '../piece-image.ts';
import { describeDescriptor, readDescriptor, type Storage } from './descriptor.ts';
import { HEADER_BYTES, invalid, type ParallelsHeader, readHeader } from './header.ts';

const ENTRY_BYTES = 4;
const CHUNK_BYTES = 64 * 1024;
/** Pieces of a disk that has no tables. */
const PLAIN_PIECE_BYTES = 1024 * 1024;

/** One file of a storage, in the place that it has in the chain. */
interface OpenedExtent {
  readonly file: HostFile;
  readonly storage: Storage;
  /** null: the bytes of the file are the storage */
  readonly header: ParallelsHeader | null;
}

/** A disk of the files that a descriptor lists. @throws ImgfuseError what readDescriptor() and openExtent() throw, and limit */
export function openDisk(file: HostFile, { log, openExtent }: OpenOptions): PieceImage {
  const descriptor = readDescriptor(file);
  assert(openExtent !== undefined, 'a disk of several files is opened with an opener for them');
  const extents: OpenedExtent[] = [];
  for (const storage of descriptor.storages) {
    for (const { name, type } of storage.chain) {
      const extent = openExtent(name, 'extent', 'read');
      const header = type === 'Plain' ? null : readHeader(extent);
      if (header !== null) sayWhetherInUse(extent, header, log);
      extents.push({ file: extent, storage, header });
    }
  }
  const pieceBytes = pieceOf(extents);
  const table = new PieceTable(file.path, descriptor.diskBytes, pieceBytes, true);
  // the oldest first: what a later file has counts
  for (const [i, extent] of extents.entries()) addExtent(table, extent, i + 1, pieceBytes);
  const files = extents.map((extent) => extent.file);
  table.sayWhatIsCut([file, ...files], log);
  const state = table.state(describeDescriptor(descriptor), 'cluster');
  return new PieceImage(file, state, files);
}

/** The largest piece that divides every cluster, and the place of every storage. */
function pieceOf(extents: readonly OpenedExtent[]): number {
  const sizes = extents.flatMap(({ header, storage }) => [header?.clusterBytes ?? PLAIN_PIECE_BYTES, storage.start]);
  return sizes.reduce(greatestDivisor);
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

function addExtent(table: PieceTable, extent: OpenedExtent, holder: number, pieceBytes: number): void {
  const { file, header, storage } = extent;
  const first = storage.start / pieceBytes;
  const end = Math.ceil(storage.end / pieceBytes);
  if (header === null) {
    for (let index = first; index < end; index++) table.set(index, (index - first) * pieceBytes, holder);
    return;
  }
  const { clusterBytes, diskBytes } = header;
  if (diskBytes < storage.end - storage.start) {
    const sectors = (storage.end - storage.start) / SECTOR_BYTES;
    throw invalid(file, 36, `it has ${diskBytes / SECTOR_BYTES} sectors, and the descriptor says ${sectors}`);
  }
  const perCluster = clusterBytes / pieceBytes;
  const forEachPiece = (cluster: number, visit: (index: number, inCluster: number) => void): void => {
    for (let i = 0; i < perCluster; i++) {
      const index = first + cluster * perCluster + i;
      if (index < end) visit(index, i * pieceBytes);
    }
  };
  addClusters(file, header, Math.ceil((storage.end - storage.start) / clusterBytes), {
    set: (cluster, place) => forEachPiece(cluster, (index, inCluster) => table.set(index, place + inCluster, holder)),
    setBad: (cluster, entryAt) => forEachPiece(cluster, (index) => table.setBad(index, entryAt, holder)),
  });
}

function sayWhetherInUse({ path }: HostFile, { isInUse }: ParallelsHeader, log: OpenOptions['log']): void {
  if (isInUse) log(`${path} was not closed clean, or another program has it open for writing; it is read as it is`);
}

interface ClusterPlaces {
  readonly set: (cluster: number, place: number) => void;
  readonly setBad: (cluster: number, entryAt: number) => void;
}

/** The first `count` clusters that have an entry. */
function addClusters(file: HostFile, header: ParallelsHeader, count: number, places: ClusterPlaces): void {
  const { clusterBytes, dataOffset, unitBytes } = header;
  forEachEntry(file, count, (index, entry) => {
    const place = entry * unitBytes;
    if (place >= dataOffset && place + clusterBytes <= Number.MAX_SAFE_INTEGER) places.set(index, place);
    else places.setBad(index, HEADER_BYTES + index * ENTRY_BYTES);
  });
}

/** Visits the entries that are not 0, in order. */
function forEachEntry(file: HostFile, count: number, visit: (index: number, entry: number) => void): void {
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, count * ENTRY_BYTES));
  const words = new DataView(chunk.buffer);
  for (let start = 0; start < count; start += chunk.length / ENTRY_BYTES) {
    const part = Math.min(chunk.length, (count - start) * ENTRY_BYTES);
    const got = file.read(chunk, 0, part, hostOffset(HEADER_BYTES + start * ENTRY_BYTES));
    for (let at = 0; at + ENTRY_BYTES <= got; at += ENTRY_BYTES) {
      const entry = words.getUint32(at, true);
      if (entry !== 0) visit(start + at / ENTRY_BYTES, entry);
    }
  }
}
