// An open extent of a kind that is only read. It shares nothing with other threads but what its header says.

import { after, type GuestOffset } from '../../../bytes/offsets.ts';
import { isCorrupt } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import {
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type ReadableImage,
  type ReadOnlyImage,
  type SharedImage,
  type StatusRun,
  shareImage,
} from '../../image-format.ts';
import { readBackingData } from '../../mapped/backing.ts';
import type { CompressedRun, Mapper, Run } from './mapping.ts';

/** Limit for the runs that one answer of mapStatus() merges. */
const MAX_RUNS = 4096;

export interface ReadOnlyExtentParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly capacity: number;
  readonly grainBytes: number;
  /** bytes of the disk with data here, or an estimate */
  readonly allocatedBytes: number;
  readonly isUnclean: boolean;
  readonly mapper: Mapper;
  /** absent: no grain is compressed */
  readonly grains?: {
    readPart(run: CompressedRun, target: Uint8Array, targetOffset: number, offset: GuestOffset): void;
  };
}

export class ReadOnlyExtent implements ReadOnlyImage {
  readonly format = 'vmdk';
  readonly readOnly = true;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize: number;
  readonly backing: ReadableImage | null;
  private readonly parts: ReadOnlyExtentParts;
  private readonly state: unknown;

  /** @param state what share() passes to other threads */
  constructor(parts: ReadOnlyExtentParts, state: unknown) {
    this.file = parts.file;
    this.files = onlyFile(parts.file);
    this.clusterSize = parts.grainBytes;
    this.backing = parts.backing;
    this.parts = parts;
    this.state = state;
  }

  virtualSize(): number {
    return this.parts.capacity;
  }

  allocatedBytes(): number {
    return this.parts.allocatedBytes;
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    for (let done = 0; done < length; ) {
      const at = after(offset, done);
      const run = this.parts.mapper.map(at, length - done);
      this.readRun(run, target, targetOffset + done, at);
      done += run.length;
    }
  }

  private readRun(run: Run, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    const { backing, file, grains } = this.parts;
    const { length } = run;
    if (run.status === 'data') readPadded(file, target, targetOffset, length, run.hostOffset);
    else if (run.status === 'compressed') grains!.readPart(run, target, targetOffset, offset);
    else if (run.status === 'zero' || backing === null) target.fill(0, targetOffset, targetOffset + length);
    else readBackingData(backing, target, targetOffset, length, offset);
  }

  map(offset: GuestOffset, length: number): Extent {
    const run = this.parts.mapper.map(offset, length);
    const { length: part } = run;
    if (run.status === 'data') return { start: offset, length: part, status: 'data', hostOffset: run.hostOffset };
    return { start: offset, length: part, status: statusOf(run) };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    const first = this.parts.mapper.map(offset, length);
    const status = statusOf(first);
    let total = first.length;
    try {
      for (let runs = 1; total < length && runs < MAX_RUNS; runs++) {
        const next = this.parts.mapper.map(after(offset, total), length - total);
        if (statusOf(next) !== status) break;
        total += next.length;
      }
    } catch (error) {
      // end the answer before the damaged part
      if (!isCorrupt(error)) throw error;
    }
    return { status, length: total };
  }

  /** Does not search for holes of the file: these kinds are written grain by grain. */
  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.mapStatus(offset, length);
  }

  close(): void {}

  /** A dead thread leaves nothing behind: threads hold no locks here. */
  abandon(): void {}

  details(): ImageDetails {
    const { capacity, grainBytes, isUnclean } = this.parts;
    return { format: 'vmdk', virtualSize: capacity, clusterSize: grainBytes, dirty: isUnclean, specific: {} };
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}

function statusOf({ status }: Run): StatusRun['status'] {
  return status === 'compressed' ? 'data' : status;
}
