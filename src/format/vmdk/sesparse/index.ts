// SESparse extents (SESPARSE), the kind: snapshots of disks above 2 TiB, and of VMFS 6. Read-only: what keeps a journal, a free bitmap and
// a map of owners true is known to ESX alone.

import { combine, hexWords } from '../../../bytes/endian.ts';
import { hex, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ReadableImage } from '../../image-format.ts';
import { clustersOnHost, possibleClusters } from '../../mapped/host-clusters.ts';
import type { TableSlices } from '../../mapped/table-slices.ts';
import type { ExtentKind } from '../extent.ts';
import { ReadOnlyExtent } from '../readonly/image.ts';
import { type GrainLookup, Mapper, ownSlices, UNALLOCATED, ZEROS } from '../readonly/mapping.ts';
import {
  ENTRY_BYTES,
  GRAIN_BYTES,
  matchesSeSparse,
  readSeSparseHeader,
  type SeSparseHeader,
  TABLE_BYTES,
  TABLE_ENTRIES,
} from './header.ts';

const ONLY_READ = 'an SESparse extent, whose journal only ESX writes; use an overlay (-o overlay=FILE), or convert it';
const CACHE_BYTES = 1024 * 1024;
/** The high word of a directory entry that leads to a table, and the kinds of table entries: their highest four bits. */
const TABLE_ALLOCATED = 0x10000000;
const GTE_UNALLOCATED = 0;
const GTE_UNMAPPED = 1;
const GTE_ZERO = 2;
const GTE_ALLOCATED = 3;

interface SeSparseState {
  readonly header: SeSparseHeader;
  readonly allocatedBytes: number;
}

export const sesparse: ExtentKind<ReadOnlyExtent> = {
  type: 'SESPARSE',
  title: 'an SESparse extent',
  matches: matchesSeSparse,
  inspect: (file) => {
    const { capacity } = readSeSparseHeader(file);
    const facts = { isCompressed: false, isUnclean: false, descriptor: null, onlyRead: ONLY_READ };
    return { capacity, grainBytes: GRAIN_BYTES, ...facts };
  },
  open: (file, { backing, isLazy, readOnly }) => {
    const header = readSeSparseHeader(file);
    if (!readOnly) throw new ImgfuseError('unsupported', `${file.path} is ${ONLY_READ}`, { path: file.path });
    const estimate = isLazy === true ? clustersOnHost : possibleClusters;
    const allocatedBytes = estimate(file, header.capacity, GRAIN_BYTES) * GRAIN_BYTES;
    return openSeSparse(file, { header, allocatedBytes }, backing);
  },
  attach: (file, state, { backing }) => openSeSparse(file, state as SeSparseState, backing),
};

function openSeSparse(file: HostFile, state: SeSparseState, backing: ReadableImage | null): ReadOnlyExtent {
  const { allocatedBytes, header } = state;
  const mapper = new Mapper(new SeSparseTables(file, header));
  const sizes = { capacity: header.capacity, grainBytes: GRAIN_BYTES, allocatedBytes };
  return new ReadOnlyExtent({ file, backing, ...sizes, isUnclean: false, mapper }, state);
}

class SeSparseTables implements GrainLookup {
  readonly grainBytes = GRAIN_BYTES;
  readonly tableEntries = TABLE_ENTRIES;
  readonly isCompressed = false;
  private readonly file: HostFile;
  private readonly header: SeSparseHeader;
  private readonly slices: TableSlices;
  /** asked once: it is a system call */
  private readonly fileBytes: number;

  constructor(file: HostFile, header: SeSparseHeader) {
    this.file = file;
    this.header = header;
    this.slices = ownSlices(file, CACHE_BYTES);
    this.fileBytes = file.size();
  }

  table(directoryIndex: number): number {
    const { directoryOffset, tablesOffset } = this.header;
    const { high, low } = this.load(directoryOffset, directoryIndex);
    if (high === 0 && low === 0) return 0;
    const table = tablesOffset + low * TABLE_BYTES;
    if (high === TABLE_ALLOCATED && table + TABLE_BYTES <= this.fileBytes) return table;
    throw this.bad('grain directory', directoryOffset, directoryIndex, high, low);
  }

  place(table: number, index: number): number {
    const { high, low } = this.load(table, index);
    const kind = high >>> 28;
    if (kind === GTE_UNALLOCATED && high === 0 && low === 0) return UNALLOCATED;
    if (kind === GTE_UNMAPPED || kind === GTE_ZERO) return ZEROS;
    // bits 48 .. 59 are the lowest of the number of the grain
    const grain = combine(high & 0xffff, low) * 4096 + ((high >>> 16) & 0xfff);
    const place = this.header.grainsOffset + grain * GRAIN_BYTES;
    if (kind === GTE_ALLOCATED && place < this.fileBytes) return place;
    throw this.bad('grain table', table, index, high, low);
  }

  private load(table: number, index: number): { readonly high: number; readonly low: number } {
    const at = this.slices.load(table + index * ENTRY_BYTES);
    return { high: this.slices.view.getUint32(at + 4, true), low: this.slices.view.getUint32(at, true) };
  }

  private bad(what: string, table: number, index: number, high: number, low: number): ImgfuseError {
    const { path } = this.file;
    const offset = table + index * ENTRY_BYTES;
    return new ImgfuseError(
      'corrupt',
      `${path}: ${what} entry ${index} at offset ${hex(offset)} is ${hexWords(high, low)}, which leads to nothing in the file of ` +
        `${this.fileBytes / SECTOR_BYTES} sectors; copy the image again, or restore it from a backup`,
      { path, offset },
    );
  }
}
