// An open Bochs image, read-only. Sectors without data read as zeros, because a growing image has no backing file.

import { after, type GuestOffset } from '../../bytes/offsets.ts';
import { isCorrupt } from '../../errors/index.ts';
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
import { Geometry, NO_EXTENT } from './geometry.ts';
import { type BochsHeader, readHeader } from './header.ts';
import { Mapper, readCatalog } from './mapping.ts';

/** The state that all threads share. It does not change after the open. */
export interface BochsState {
  readonly header: BochsHeader;
  readonly catalog: SharedArrayBuffer;
  /** bytes of the disk with an extent */
  readonly allocatedBytes: number;
}

/** @throws ImgfuseError corrupt, unsupported */
export function openBochs(file: HostFile): BochsImage {
  const header = readHeader(file);
  const catalog = readCatalog(file, header, new Geometry(header));
  const extents = new Uint32Array(catalog).filter((entry) => entry !== NO_EXTENT).length;
  const allocatedBytes = Math.min(extents * header.extentBytes, header.diskBytes);
  return new BochsImage(file, { header, catalog, allocatedBytes });
}

/** Limit for the runs that one answer of mapStatus() merges. */
const MAX_RUNS = 4096;

export class BochsImage implements ReadOnlyImage {
  readonly format = 'bochs';
  readonly readOnly = true;
  readonly backing = null;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize: number;
  private readonly state: BochsState;
  private readonly mapper: Mapper;

  constructor(file: HostFile, state: BochsState) {
    this.file = file;
    this.files = onlyFile(file);
    this.state = state;
    this.clusterSize = state.header.extentBytes;
    this.mapper = new Mapper(file, new Geometry(state.header), state.catalog);
  }

  virtualSize(): number {
    return this.state.header.diskBytes;
  }

  allocatedBytes(): number {
    return this.state.allocatedBytes;
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    for (let done = 0; done < length; ) {
      const run = this.mapper.map(after(offset, done), length - done);
      const at = targetOffset + done;
      if (run.status === 'data') readPadded(this.file, target, at, run.length, run.hostOffset);
      else target.fill(0, at, at + run.length);
      done += run.length;
    }
  }

  map(offset: GuestOffset, length: number): Extent {
    return { start: offset, ...this.mapper.map(offset, length) };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    const { status, length: part } = this.mapper.map(offset, length);
    let total = part;
    try {
      for (let runs = 1; total < length && runs < MAX_RUNS; runs++) {
        const next = this.mapper.map(after(offset, total), length - total);
        if (next.status !== status) break;
        total += next.length;
      }
    } catch (error) {
      // end the answer before the damaged part
      if (!isCorrupt(error)) throw error;
    }
    return { status, length: total };
  }

  /** Does not search for holes of the file: Bochs writes data sector by sector, so there are none worth the search. */
  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.mapStatus(offset, length);
  }

  close(): void {}

  /** A dead thread leaves nothing behind: threads hold no locks here. */
  abandon(): void {}

  details(): ImageDetails {
    return describeHeader(this.state.header);
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}

export function describeHeader({ diskBytes }: BochsHeader): ImageDetails {
  return { format: 'bochs', virtualSize: diskBytes, clusterSize: null, dirty: false, specific: {} };
}
