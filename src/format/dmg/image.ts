// An open dmg image, read-only. Compressed runs are decompressed as a whole; each thread keeps the last few.

import { after, type GuestOffset, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { CompressedPieces } from '../../codec/compressed-pieces.ts';
import type { HostFile } from '../../host/host-file.ts';
import { readPadded } from '../../host/host-file.ts';
import {
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type ReadOnlyImage,
  type SharedImage,
  type StatusRun,
  shareImage,
} from '../image-format.ts';
import { type BlockTable, readBlockTables, sortedRuns } from './block-table.ts';
import { type CompressedRun, Mapper, shareRuns } from './mapping.ts';
import { decoderOf, isZero } from './run-types.ts';
import { readTrailer, type Trailer } from './trailer.ts';

/** The state that all threads share. It does not change after the open. */
export interface DmgState {
  readonly diskBytes: number;
  /** bytes of the disk with data */
  readonly allocatedBytes: number;
  readonly runs: SharedArrayBuffer;
}

/** @throws ImgfuseError corrupt, unsupported */
export function openDmg(file: HostFile): DmgImage {
  const trailer = readTrailer(file);
  return new DmgImage(file, stateOf(trailer, readBlockTables(file, trailer)));
}

export function stateOf({ diskBytes }: Trailer, tables: readonly BlockTable[]): DmgState {
  const runs = sortedRuns(tables);
  const allocatedBytes = runs.reduce((sum, { type, bytes }) => sum + (isZero(type) ? 0 : bytes), 0);
  return { diskBytes, allocatedBytes, runs: shareRuns(runs) };
}

/** Limit for the runs that one answer of mapStatus() merges. */
const MAX_RUNS = 4096;

export class DmgImage implements ReadOnlyImage {
  readonly format = 'dmg';
  readonly readOnly = true;
  readonly backing = null;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize = SECTOR_BYTES;
  private readonly state: DmgState;
  private readonly mapper: Mapper;
  private readonly pieces: CompressedPieces;

  constructor(file: HostFile, state: DmgState) {
    this.file = file;
    this.files = onlyFile(file);
    this.state = state;
    this.mapper = new Mapper(state.runs);
    this.pieces = new CompressedPieces(file, 'run');
  }

  virtualSize(): number {
    return this.state.diskBytes;
  }

  allocatedBytes(): number {
    return this.state.allocatedBytes;
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    for (let done = 0; done < length; ) {
      const place = after(offset, done);
      const run = this.mapper.map(place, length - done);
      const at = targetOffset + done;
      if (run.status === 'data') readPadded(this.file, target, at, run.length, run.hostOffset);
      else if (run.status === 'zero') target.fill(0, at, at + run.length);
      else {
        const inRun = place - run.run.start;
        target.set(this.decompressed(run).subarray(inRun, inRun + run.length), at);
      }
      done += run.length;
    }
  }

  private decompressed({ run, index }: CompressedRun): Uint8Array {
    const piece = { ...run, hostOffset: hostOffset(run.hostOffset) };
    return this.pieces.read(index, () => piece, decoderOf(run.type));
  }

  map(offset: GuestOffset, length: number): Extent {
    const run = this.mapper.map(offset, length);
    if (run.status === 'compressed') return { start: offset, status: 'data', length: run.length };
    return { start: offset, ...run };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    const { status, length: part } = this.map(offset, length);
    let total = part;
    for (let runs = 1; total < length && runs < MAX_RUNS; runs++) {
      const next = this.map(after(offset, total), length - total);
      if (next.status !== status) break;
      total += next.length;
    }
    return { status, length: total };
  }

  /** Does not search for holes of the file: nobody writes a dmg image with holes. */
  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.mapStatus(offset, length);
  }

  close(): void {}

  /** A dead thread leaves nothing behind: threads hold no locks here. */
  abandon(): void {}

  details(): ImageDetails {
    return describeDisk(this.state);
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}

export function describeDisk({ diskBytes }: Pick<Trailer, 'diskBytes'>): ImageDetails {
  return { format: 'dmg', virtualSize: diskBytes, clusterSize: null, dirty: false, specific: {} };
}
