// Writes a streamed extent from its beginning to its end: grains in the order of the disk, each table behind its grains, and at last the
// directory and a footer that says where it is. Nothing is written twice, so the file could as well be a pipe. A grain of zeros is left
// out. Until finish() has returned the file is no image: its header says that the directory is in a footer.

import { deflateSync } from 'node:zlib';
import { writeU64LE } from '../../../bytes/endian.ts';
import { hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { assert, ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { MAX_FILE_BYTES } from '../../mapped/space/room-end.ts';
import {
  COMPRESSION_DEFLATE,
  directoryEntriesOf,
  ENTRY_BYTES,
  GD_AT_END,
  MAX_DIRECTORY_ENTRIES,
  SPARSE_HEADER_BYTES,
  SPARSEFLAG_COMPRESSED,
  SPARSEFLAG_EMBEDDED_LBA,
  SPARSEFLAG_VALID_NEWLINE,
  type SparseHeader,
  serializeHeader,
} from '../sparse/header.ts';
import { GRAIN_MARKER_BYTES } from './grain.ts';

const GRAIN_BYTES = 128 * SECTOR_BYTES;
const TABLE_ENTRIES = 512;
const MARKER_EOS = 0;
const MARKER_GT = 1;
const MARKER_GD = 2;
const MARKER_FOOTER = 3;

export interface StreamWriterOptions {
  /** bytes of the disk, whole sectors */
  readonly capacity: number;
  readonly descriptor: string;
  /** bytes that are kept for it; whole sectors */
  readonly descriptorBytes: number;
  /** of zlib; default: its own */
  readonly level?: number;
}

export class StreamWriter {
  readonly grainBytes = GRAIN_BYTES;
  private readonly file: HostFile;
  private readonly header: SparseHeader;
  private readonly level: number | undefined;
  private readonly directory: Uint32Array;
  /** entries of the table that is being filled, and which one it is */
  private table = new Uint32Array(TABLE_ENTRIES);
  private tableIndex = 0;
  /** the grain that comes next at the earliest */
  private next = 0;
  /** length of the file */
  private end: number;

  /** @param file empty @throws ImgfuseError limit, io, no-space */
  constructor(file: HostFile, { capacity, descriptor, descriptorBytes, level }: StreamWriterOptions) {
    const text = Buffer.from(descriptor, 'utf8');
    assert(text.length <= descriptorBytes, 'the descriptor fits its place');
    this.file = file;
    this.level = level;
    this.header = {
      version: 3,
      flags: SPARSEFLAG_VALID_NEWLINE | SPARSEFLAG_COMPRESSED | SPARSEFLAG_EMBEDDED_LBA,
      ...{ capacity, grainBytes: GRAIN_BYTES, tableEntries: TABLE_ENTRIES },
      ...{ descriptorOffset: SPARSE_HEADER_BYTES, descriptorBytes, redundantOffset: 0, directoryOffset: GD_AT_END },
      overheadBytes: roundUp(SPARSE_HEADER_BYTES + descriptorBytes, GRAIN_BYTES),
      ...{ isUnclean: false, compression: COMPRESSION_DEFLATE },
    };
    const entries = directoryEntriesOf(this.header);
    if (entries > MAX_DIRECTORY_ENTRIES) throw tooLarge(file);
    this.directory = new Uint32Array(entries);
    const head = new Uint8Array(this.header.overheadBytes);
    head.set(serializeHeader(this.header));
    head.set(text, SPARSE_HEADER_BYTES);
    this.end = 0;
    this.append(head);
  }

  /**
   * The next grain of the disk that is not zeros. @param index higher than the one before @param bytes a whole grain, but for the last
   * one of a disk, which is as long as the disk
   */
  writeGrain(index: number, bytes: Uint8Array): void {
    const { capacity } = this.header;
    assert(index >= this.next && index * GRAIN_BYTES < capacity, `grain ${index} comes behind ${this.next - 1}`);
    assert(bytes.length === Math.min(GRAIN_BYTES, capacity - index * GRAIN_BYTES), 'a grain is whole');
    this.next = index + 1;
    this.goToTable(Math.floor(index / TABLE_ENTRIES));
    if (isZero(bytes)) return;
    const data = deflateSync(bytes, this.level === undefined ? {} : { level: this.level });
    const grain = new Uint8Array(roundUp(GRAIN_MARKER_BYTES + data.length, SECTOR_BYTES));
    const view = new DataView(grain.buffer);
    writeU64LE(view, 0, (index * GRAIN_BYTES) / SECTOR_BYTES);
    view.setUint32(8, data.length, true);
    grain.set(data, GRAIN_MARKER_BYTES);
    this.table[index % TABLE_ENTRIES] = this.append(grain);
  }

  /** Writes what makes the file an image, durably. */
  finish(): void {
    this.goToTable(this.directory.length);
    const directoryOffset = this.appendEntries(MARKER_GD, this.directory) * SECTOR_BYTES;
    this.appendMarker(1, MARKER_FOOTER);
    this.append(serializeHeader({ ...this.header, directoryOffset }));
    this.appendMarker(0, MARKER_EOS);
    this.file.sync();
  }

  /** The tables before this one are done: writes the last of them, if it has any grains. */
  private goToTable(index: number): void {
    const last = this.tableIndex;
    this.tableIndex = index;
    if (index === last || this.table.every((entry) => entry === 0)) return;
    this.directory[last] = this.appendEntries(MARKER_GT, this.table);
    this.table = new Uint32Array(TABLE_ENTRIES);
  }

  /** @returns the sector of the entries */
  private appendEntries(marker: number, entries: Uint32Array): number {
    const bytes = new Uint8Array(roundUp(entries.length * ENTRY_BYTES, SECTOR_BYTES));
    const view = new DataView(bytes.buffer);
    for (const [i, entry] of entries.entries()) view.setUint32(i * ENTRY_BYTES, entry, true);
    this.appendMarker(bytes.length / SECTOR_BYTES, marker);
    return this.append(bytes);
  }

  private appendMarker(sectors: number, type: number): void {
    const bytes = new Uint8Array(SECTOR_BYTES);
    const view = new DataView(bytes.buffer);
    writeU64LE(view, 0, sectors);
    view.setUint32(12, type, true);
    this.append(bytes);
  }

  /** @returns the sector at which they begin */
  private append(bytes: Uint8Array): number {
    const at = this.end;
    if (at + bytes.length > MAX_FILE_BYTES) throw tooLarge(this.file);
    this.file.write(bytes, 0, bytes.length, hostOffset(at));
    this.end += bytes.length;
    return at / SECTOR_BYTES;
  }
}

function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0;
}

const ZEROS = new Uint8Array(GRAIN_BYTES);

function tooLarge({ path }: HostFile): ImgfuseError {
  return new ImgfuseError(
    'limit',
    `${path}: the disk is too large for one streamed extent, which takes at most 2 TiB of the host; use another format`,
    { path },
  );
}
