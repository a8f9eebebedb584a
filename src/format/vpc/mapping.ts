// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only, so it may be
// used after the lock is released as long as the range stays reserved (R2, R3). Of a block that is here, the bitmap says which
// sectors are: where a bit is clear the parent shows through, or zeros if there is none.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  type HostOffset,
  hex,
  hostOffset,
  SECTOR_BYTES,
  UNSET,
} from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { SharedByteMap, type SharedByteMapState } from '../../concurrency/shared-byte-map.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type DataRun, MAX_LOOKS } from '../mapped/runs/run-mapper.ts';
import type { Bitmaps } from './bitmaps.ts';
import type { Geometry } from './geometry.ts';
import { FOOTER_BYTES } from './header/footer.ts';
import { type DynamicHeader, HEADER_BYTES, tableBytesOf } from './header/header.ts';
import type { VpcNumbers } from './state.ts';
import { type Tables, UNUSED_ENTRY } from './table.ts';

/** Not here. */
export interface HoleRun {
  readonly status: 'unallocated';
  readonly length: number;
  /** the block whose bitmap says so; NO_BLOCK: the block is not in the file */
  readonly block: HostOffset;
}

export type Run = DataRun | HoleRun;
type Filled<R> = { -readonly [Field in keyof R]: R[Field] };

/** The place of a block that is not in the file: the first sector is a footer. */
export const NO_BLOCK = hostOffset(0);

export class Mapper {
  /** the answers of map() */
  private readonly data: Filled<DataRun> = { status: 'data', hostOffset: UNSET, length: UNSET };
  private readonly hole: Filled<HoleRun> = { status: 'unallocated', length: UNSET, block: NO_BLOCK };
  private readonly path: string;
  private readonly readOnly: boolean;
  readonly headerOffset: number;
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly bitmaps: Bitmaps;
  private readonly numbers: Pick<VpcNumbers, 'fileEnd' | 'tableEntries' | 'tableOffset'>;
  private readonly full: SharedByteMap;

  constructor(
    { path, readOnly }: HostFile,
    header: DynamicHeader,
    geometry: Geometry,
    tables: Tables,
    bitmaps: Bitmaps,
    numbers: Pick<VpcNumbers, 'fileEnd' | 'tableEntries' | 'tableOffset'>,
    full: SharedByteMapState,
  ) {
    this.path = path;
    this.readOnly = readOnly;
    this.headerOffset = header.offset;
    this.geometry = geometry;
    this.tables = tables;
    this.bitmaps = bitmaps;
    this.numbers = numbers;
    this.full = new SharedByteMap(full);
  }

  /** The longest run of one status from `offset` on; data ends with its block at the latest. */
  map(offset: GuestOffset, maxLength: number): Run {
    const { geometry } = this;
    const block = geometry.blockOf(offset);
    const host = this.lookup(block);
    const inBlock = offset - geometry.startOf(block);
    const length = Math.min(maxLength, geometry.blockSize - inBlock);
    if (host === NO_BLOCK) return this.holeRun(NO_BLOCK, length + this.unusedBehind(block, maxLength - length));
    if (this.isFull(block, host)) return this.dataRun(host, inBlock, length);
    const sector = Math.floor(inBlock / SECTOR_BYTES);
    const isHere = this.bitmaps.isHere(block, host, sector);
    const end = this.bitmaps.endOf(block, host, sector, Math.ceil((inBlock + length) / SECTOR_BYTES), isHere);
    const part = Math.min(length, end * SECTOR_BYTES - inBlock);
    return isHere ? this.dataRun(host, inBlock, part) : this.holeRun(host, part);
  }

  /** Bytes of blocks behind this one that are not in the file, `most` at most. */
  private unusedBehind(block: GuestCluster, most: number): number {
    const { blockSize } = this.geometry;
    let bytes = 0;
    for (let looks = 1; bytes < most && looks < MAX_LOOKS; looks++, bytes += blockSize) {
      if (this.lookup(after(block, looks)) !== NO_BLOCK) break;
    }
    return Math.min(bytes, most);
  }

  private dataRun(host: HostOffset, inBlock: number, length: number): DataRun {
    this.data.hostOffset = after(host, this.geometry.bitmapBytes + inBlock);
    this.data.length = length;
    return this.data;
  }

  private holeRun(block: HostOffset, length: number): HoleRun {
    this.hole.block = block;
    this.hole.length = length;
    return this.hole;
  }

  /** Where a block is: a checked offset, or NO_BLOCK. */
  lookup(block: GuestCluster): HostOffset {
    failpoint('l2-load');
    const entry = this.tables.load(block);
    if (entry === UNUSED_ENTRY) return NO_BLOCK;
    const host = hostOffset(entry * SECTOR_BYTES);
    if (this.isPlace(host)) return host;
    throw new ImgfuseError(
      'corrupt',
      `${this.path}: ${this.tables.describe(block)}, which is no place for a block in this file ` +
        `(guest offset ${hex(this.geometry.startOf(block))}); run imgfuse check`,
      { path: this.path, offset: this.tables.placeOf(block) },
    );
  }

  /** Whether a block has an entry on disk, right or wrong. */
  isEntrySet(block: GuestCluster): boolean {
    return this.tables.load(block) !== UNUSED_ENTRY;
  }

  /** A block can lie there: inside the file, and neither in a footer nor in the header nor in the table. */
  isPlace(host: HostOffset): boolean {
    const { fileEnd, tableEntries, tableOffset } = this.numbers;
    // a truncated copy is read as far as it goes
    const end = host + (this.readOnly ? 1 : this.geometry.blockBytes);
    if (host < FOOTER_BYTES || end > fileEnd) return false;
    const whole = host + this.geometry.blockBytes;
    if (host < this.headerOffset + HEADER_BYTES && whole > this.headerOffset) return false;
    return host >= tableOffset + tableBytesOf(tableEntries) || whole <= tableOffset;
  }

  /** Whether all sectors of a block are here. What is found out once is remembered: no bit of a block in use is ever cleared. */
  isFull(block: GuestCluster, host: HostOffset): boolean {
    if (this.isKnownFull(block)) return true;
    if (!this.bitmaps.isFull(block, host)) return false;
    this.noteFull(block, true);
    return true;
  }

  /** isFull() without a look at the bitmap. */
  isKnownFull(block: GuestCluster): boolean {
    return this.full.get(block) === 1;
  }

  /** The bitmap of a block is full, or the block is gone. */
  noteFull(block: GuestCluster, isFull: boolean): void {
    if (block < this.full.capacity) this.full.fill(block, block + 1, isFull ? 1 : 0);
  }
}
