// Guest range -> runs. A run is a range of sectors of one extent that all have data or all lack it, or a range of pieces without
// an extent. All threads share the catalog, which is read once; each thread keeps the bitmap that it used last. There is no lock,
// because nothing changes the image.

import { type GuestOffset, type HostOffset, hex, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { DataRun, UnallocatedRun } from '../mapped/runs/run-mapper.ts';
import { type Geometry, NO_EXTENT } from './geometry.ts';
import { type BochsHeader, CATALOG_ENTRY_BYTES } from './header.ts';

export type Run = DataRun | UnallocatedRun;

/** Reads the catalog entries that map the disk: at most 4 MiB, a limit of the header. @throws ImgfuseError corrupt */
export function readCatalog(
  file: HostFile,
  { headerBytes }: BochsHeader,
  { usedEntries }: Geometry,
): SharedArrayBuffer {
  const bytes = new Uint8Array(usedEntries * CATALOG_ENTRY_BYTES);
  const got = file.read(bytes, 0, bytes.length, hostOffset(headerBytes));
  if (got < bytes.length) {
    throw corrupt(file, headerBytes, `the catalog ends after ${got} of ${bytes.length} bytes; the file is truncated`);
  }
  const view = new DataView(bytes.buffer);
  const catalog = new SharedArrayBuffer(bytes.length);
  const entries = new Uint32Array(catalog);
  for (let i = 0; i < usedEntries; i++) entries[i] = view.getUint32(i * CATALOG_ENTRY_BYTES, true);
  return catalog;
}

export class Mapper {
  private readonly file: HostFile;
  private readonly geometry: Geometry;
  private readonly catalog: Uint32Array;
  private readonly bitmap: Uint8Array;
  /** the extent whose bitmap is loaded, or NO_EXTENT */
  private bitmapExtent = NO_EXTENT;

  constructor(file: HostFile, geometry: Geometry, catalog: SharedArrayBuffer) {
    this.file = file;
    this.geometry = geometry;
    this.catalog = new Uint32Array(catalog);
    this.bitmap = new Uint8Array(geometry.bitmapBytes);
  }

  /** The run at `offset`, at most `length` bytes long; the range lies inside the disk. Throws corrupt. */
  map(offset: GuestOffset, length: number): Run {
    const { geometry } = this;
    const { extentBytes } = geometry;
    const inExtent = offset % extentBytes;
    const index = (offset - inExtent) / extentBytes;
    const extent = this.catalog[index]!;
    if (extent === NO_EXTENT) return this.unmapped(index, inExtent, length);
    this.loadBitmap(extent);
    const first = Math.floor(inExtent / SECTOR_BYTES);
    const end = Math.min(Math.ceil((inExtent + length) / SECTOR_BYTES), extentBytes / SECTOR_BYTES);
    const hasData = this.hasData(first);
    let sector = first + 1;
    while (sector < end && this.hasData(sector) === hasData) sector++;
    const part = Math.min(length, sector * SECTOR_BYTES - inExtent);
    if (!hasData) return { status: 'unallocated', length: part };
    return { status: 'data', length: part, hostOffset: this.dataOffset(extent, inExtent, part) };
  }

  /** The run of pieces without an extent, from catalog entry `index` on. */
  private unmapped(index: number, inExtent: number, length: number): Run {
    const { catalog } = this;
    const { extentBytes } = this.geometry;
    let next = index + 1;
    while (next < catalog.length && (next - index) * extentBytes - inExtent < length && catalog[next] === NO_EXTENT)
      next++;
    return { status: 'unallocated', length: Math.min(length, (next - index) * extentBytes - inExtent) };
  }

  private hasData(sector: number): boolean {
    return (this.bitmap[sector >> 3]! & (1 << (sector & 7))) !== 0;
  }

  private loadBitmap(extent: number): void {
    if (extent === this.bitmapExtent) return;
    // if the read fails, no bitmap is loaded
    this.bitmapExtent = NO_EXTENT;
    const { bitmap, file, geometry } = this;
    const offset = geometry.bitmapOffset(extent);
    const end = offset + bitmap.length;
    const isInside = end <= file.size();
    if (!isInside || file.read(bitmap, 0, bitmap.length, offset) < bitmap.length)
      throw beyond(file, 'bitmap', extent, end);
    this.bitmapExtent = extent;
  }

  private dataOffset(extent: number, inExtent: number, length: number): HostOffset {
    const offset = this.geometry.dataOffset(extent, inExtent);
    if (offset + length > this.file.size()) throw beyond(this.file, 'data', extent, offset + length);
    return offset;
  }
}

function beyond(file: HostFile, what: string, extent: number, end: number): ImgfuseError {
  return corrupt(file, end, `the ${what} of extent ${extent} ends at ${hex(end)}, beyond the end of the file`);
}

function corrupt(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: ${what}`, { path: file.path, offset });
}
