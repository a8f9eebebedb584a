// Streamed extents (SPARSE, compressed), the kind: streamOptimized images, as OVA exports contain them. Read-only: a grain that is
// compressed anew may not fit its place.

import { hex, hostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ReadableImage } from '../../image-format.ts';
import { clustersOnHost } from '../../mapped/host-clusters.ts';
import type { TableSlices } from '../../mapped/table-slices.ts';
import type { ExtentKind } from '../extent.ts';
import { ReadOnlyExtent } from '../readonly/image.ts';
import { type GrainLookup, Mapper, ownSlices, UNALLOCATED, ZEROS } from '../readonly/mapping.ts';
import {
  directoryEntriesOf,
  ENTRY_BYTES,
  factsOf,
  matchesSparse,
  SPARSE_HEADER_BYTES,
  SPARSEFLAG_EMBEDDED_LBA,
  SPARSEFLAG_ZERO_GRAINS,
} from '../sparse/header.ts';
import { GrainReader } from './grain.ts';
import { readStreamHeader, type StreamHeader } from './header.ts';

const ONLY_READ =
  'a compressed VMDK extent (streamOptimized), which cannot be changed in place; use an overlay (-o overlay=FILE), or convert it';
const CACHE_BYTES = 1024 * 1024;

interface StreamState {
  readonly header: StreamHeader;
  readonly allocatedBytes: number;
}

export const stream: ExtentKind<ReadOnlyExtent> = {
  type: 'SPARSE',
  title: 'a streamed extent',
  matches: (head) => matchesSparse(head, true),
  inspect: (file) => factsOf(readStreamHeader(file), ONLY_READ),
  open: (file, { backing, isLazy, readOnly }) => {
    const header = readStreamHeader(file);
    if (!readOnly) throw new ImgfuseError('unsupported', `${file.path} is ${ONLY_READ}`, { path: file.path });
    return openStream(
      file,
      { header, allocatedBytes: isLazy === true ? onHost(file, header) : count(file, header) },
      backing,
    );
  },
  attach: (file, state, { backing }) => openStream(file, state as StreamState, backing),
};

function openStream(file: HostFile, state: StreamState, backing: ReadableImage | null): ReadOnlyExtent {
  const { allocatedBytes, header } = state;
  const { capacity, flags, grainBytes, isUnclean } = header;
  const hasMarkers = (flags & SPARSEFLAG_EMBEDDED_LBA) !== 0;
  const grains = new GrainReader({ file, grainBytes, capacity, hasMarkers });
  const mapper = new Mapper(new StreamTables(file, header));
  return new ReadOnlyExtent({ file, backing, capacity, grainBytes, allocatedBytes, isUnclean, mapper, grains }, state);
}

function onHost(file: HostFile, { capacity, grainBytes }: StreamHeader): number {
  return clustersOnHost(file, capacity, grainBytes) * grainBytes;
}

/** Bytes of the disk with data; damaged tables are skipped. */
function count(file: HostFile, header: StreamHeader): number {
  const tables = new StreamTables(file, header);
  return tables.countGrains() * header.grainBytes;
}

class StreamTables implements GrainLookup {
  readonly grainBytes: number;
  readonly tableEntries: number;
  readonly isCompressed = true;
  private readonly file: HostFile;
  private readonly header: StreamHeader;
  private readonly slices: TableSlices;
  /** asked once: it is a system call */
  private readonly fileBytes: number;

  constructor(file: HostFile, header: StreamHeader) {
    this.file = file;
    this.header = header;
    this.grainBytes = header.grainBytes;
    this.tableEntries = header.tableEntries;
    this.slices = ownSlices(file, CACHE_BYTES);
    this.fileBytes = file.size();
  }

  table(directoryIndex: number): number {
    const { directoryOffset } = this.header;
    const entry = this.load(directoryOffset, directoryIndex);
    const table = entry * SECTOR_BYTES;
    if (entry === 0 || table + this.tableEntries * ENTRY_BYTES <= this.fileBytes) return table;
    throw this.bad('grain directory', directoryOffset, directoryIndex, entry);
  }

  place(table: number, index: number): number {
    const entry = this.load(table, index);
    if (entry === 0) return UNALLOCATED;
    if (entry === 1 && (this.header.flags & SPARSEFLAG_ZERO_GRAINS) !== 0) return ZEROS;
    const place = entry * SECTOR_BYTES;
    if (place >= SPARSE_HEADER_BYTES && place < this.fileBytes) return place;
    throw this.bad('grain table', table, index, entry);
  }

  /** Grains of the disk, as far as the tables are in the file. */
  countGrains(): number {
    let grains = 0;
    const words = new DataView(new ArrayBuffer(this.tableEntries * ENTRY_BYTES));
    const bytes = new Uint8Array(words.buffer);
    for (let i = 0; i < directoryEntriesOf(this.header); i++) {
      const entry = this.load(this.header.directoryOffset, i);
      const got = entry === 0 ? 0 : this.file.read(bytes, 0, bytes.length, hostOffset(entry * SECTOR_BYTES));
      for (let at = 0; at + ENTRY_BYTES <= got; at += ENTRY_BYTES) if (words.getUint32(at, true) > 1) grains++;
    }
    return grains;
  }

  private load(table: number, index: number): number {
    const at = this.slices.load(table + index * ENTRY_BYTES);
    return this.slices.view.getUint32(at, true);
  }

  private bad(what: string, table: number, index: number, entry: number): ImgfuseError {
    const { path } = this.file;
    const offset = table + index * ENTRY_BYTES;
    return new ImgfuseError(
      'corrupt',
      `${path}: ${what} entry ${index} at offset ${hex(offset)} is sector ${hex(entry)}, outside the file of ${this.fileBytes} bytes; ` +
        'copy the image again, or restore it from a backup',
      { path, offset, isTruncated: true },
    );
  }
}
