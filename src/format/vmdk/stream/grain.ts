// A compressed grain: the sector of the disk it begins with, its length, and a zlib stream (RFC 1950; some writers leave out the two
// bytes of its head and the sum at its end, as the specification says). The last grain of a disk may be short. Invariant: no damage
// costs more memory than a grain and what it can be compressed to.
//
//    0 lba u64 | 8 size u32 | 12 data ...          with markers; without them the data begins at once

import { readU64LE } from '../../../bytes/endian.ts';
import { type GuestOffset, type HostOffset, hex, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { DamagedData } from '../../../codec/damaged-data.ts';
import { KeptPieces } from '../../../codec/kept-pieces.ts';
import { inflateAtMost } from '../../../codec/zlib.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { CompressedRun } from '../readonly/mapping.ts';

export const GRAIN_MARKER_BYTES = 12;
/** Decompressed grains that each thread keeps, for small reads in order. */
const KEPT_GRAINS = 4;

export interface GrainReaderParts {
  readonly file: HostFile;
  readonly grainBytes: number;
  readonly capacity: number;
  readonly hasMarkers: boolean;
}

/** Reads compressed grains; one object serves one thread. */
export class GrainReader {
  private readonly parts: GrainReaderParts;
  /** a grain that cannot be compressed is a little longer than it was */
  private readonly mostBytes: number;
  private readonly kept: KeptPieces;

  constructor(parts: GrainReaderParts) {
    this.parts = parts;
    this.mostBytes = 2 * parts.grainBytes;
    this.kept = new KeptPieces(KEPT_GRAINS * parts.grainBytes);
  }

  /** Reads a run, which lies in one grain and begins at `offset`. */
  readPart({ hostOffset, length }: CompressedRun, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    const inGrain = offset % this.parts.grainBytes;
    let grain = this.kept.get(hostOffset);
    if (grain === undefined) {
      grain = this.read(hostOffset, offset - inGrain);
      this.kept.put(hostOffset, grain);
    }
    target.set(grain.subarray(inGrain, inGrain + length), targetOffset);
  }

  /** @param start of the grain on the disk */
  private read(place: HostOffset, start: number): Uint8Array {
    const { capacity, file, grainBytes, hasMarkers } = this.parts;
    const head = hasMarkers ? GRAIN_MARKER_BYTES : 0;
    const bytes = new Uint8Array(head + this.mostBytes);
    const got = file.read(bytes, 0, bytes.length, place);
    const data = bytes.subarray(head, hasMarkers ? head + this.sizeOf(bytes, got, place, start) : got);
    const grain = this.inflate(data, place, start);
    const needed = Math.min(grainBytes, capacity - start);
    if (grain.length < needed) {
      throw this.damaged(place, start, `decompresses to ${grain.length} bytes instead of ${needed}`);
    }
    return grain;
  }

  /** Bytes of compressed data, as the marker says. */
  private sizeOf(bytes: Uint8Array, got: number, place: HostOffset, start: number): number {
    if (got < GRAIN_MARKER_BYTES)
      throw this.damaged(place, start, 'lies at the end of the file, which is truncated', true);
    const view = new DataView(bytes.buffer);
    const lba = readU64LE(view, 0);
    if (lba !== start / SECTOR_BYTES) throw this.damaged(place, start, `says that it is the one of sector ${lba}`);
    const size = view.getUint32(8, true);
    if (size === 0 || size > this.mostBytes) {
      throw this.damaged(place, start, `says that it has ${size} bytes; it must have from 1 to ${this.mostBytes}`);
    }
    if (size > got - GRAIN_MARKER_BYTES) {
      throw this.damaged(place, start, `has ${size} bytes, which end beyond the file: it is truncated`, true);
    }
    return size;
  }

  private inflate(data: Uint8Array, place: HostOffset, start: number): Uint8Array {
    try {
      return inflateAtMost(data, this.parts.grainBytes, !isZlib(data));
    } catch (error) {
      if (error instanceof DamagedData) throw this.damaged(place, start, error.message);
      throw error;
    }
  }

  private damaged(place: HostOffset, start: number, why: string, isTruncated = false): ImgfuseError {
    const { path } = this.parts.file;
    return new ImgfuseError(
      'corrupt',
      `${path}: the compressed grain at offset ${hex(place)} (guest offset ${hex(start)} of the extent) ${why}; ` +
        'copy the image again, or restore it from a backup',
      { path, offset: place, ...(isTruncated ? { isTruncated } : {}) },
    );
  }
}

/** The two bytes at the head of a zlib stream: method 8, and a multiple of 31. */
function isZlib(data: Uint8Array): boolean {
  return data.length >= 2 && (data[0]! & 0x0f) === 8 && (data[0]! * 256 + data[1]!) % 31 === 0;
}
