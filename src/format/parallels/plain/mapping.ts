// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only, so
// it may be used after the lock is released as long as the range stays reserved (R2, R3).

import {
  type GuestCluster,
  type GuestOffset,
  type HostOffset,
  hex,
  hostOffset,
  UNSET,
} from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { type DataRun, MAX_LOOKS, type UnallocatedRun } from '../../mapped/runs/run-mapper.ts';
import type { Geometry } from './geometry.ts';
import type { PlainNumbers } from './state.ts';
import { type Bat, entryAt } from './table.ts';

export type Run = DataRun | UnallocatedRun;
type Filled<R> = { -readonly [Field in keyof R]: R[Field] };

/** What an entry says if it leads to no cluster. */
export const NO_CLUSTER = hostOffset(0);

export interface MapperParts {
  readonly file: { readonly path: string; readonly readOnly: boolean };
  readonly geometry: Geometry;
  readonly bat: Bat;
  readonly numbers: Pick<PlainNumbers, 'dataStart' | 'fileEnd'>;
}

export class Mapper {
  /** the answers of map() */
  private readonly data: Filled<DataRun> = { status: 'data', hostOffset: UNSET, length: UNSET };
  private readonly unallocated: Filled<UnallocatedRun> = { status: 'unallocated', length: UNSET };
  private readonly parts: MapperParts;

  constructor(parts: MapperParts) {
    this.parts = parts;
  }

  /** The longest run of one status (and, for data, of adjoining host clusters) from `offset` on. */
  map(offset: GuestOffset, maxLength: number): Run {
    const { geometry } = this.parts;
    const { clusterSize } = geometry;
    const end = offset + maxLength;
    let cluster = geometry.clusterOf(offset);
    const first = this.lookup(cluster);
    const run = first === NO_CLUSTER ? this.unallocated : this.data;
    if (run.status === 'data') run.hostOffset = hostOffset(first + (offset - geometry.startOf(cluster)));
    let covered = geometry.startOf(cluster) + clusterSize;
    for (let looks = 0; covered < end && looks < MAX_LOOKS; looks++) {
      cluster++;
      const wanted = first === NO_CLUSTER ? NO_CLUSTER : first + (looks + 1) * clusterSize;
      if (this.lookup(cluster) !== wanted) break;
      covered += clusterSize;
    }
    run.length = Math.min(covered, end) - offset;
    return run;
  }

  /** Host offset of a guest cluster, checked; NO_CLUSTER if it has none. @throws ImgfuseError corrupt */
  lookup(cluster: GuestCluster): HostOffset {
    failpoint('l2-load');
    const host = this.parts.bat.load(cluster);
    if (host === NO_CLUSTER || this.isData(host)) return host;
    throw this.badEntry(cluster, host);
  }

  /** No cluster of `count` from `cluster` on, whose entries lie in one slice, has data: large ranges mostly have none. */
  isEmpty(cluster: GuestCluster, count: number): boolean {
    failpoint('l2-load');
    return this.parts.bat.isEmpty(cluster, count);
  }

  /** There is a cluster of the file. One that is only read may lie beside the grid. */
  isData(host: number): boolean {
    const { file, geometry, numbers } = this.parts;
    return host >= numbers.dataStart && host < numbers.fileEnd && (file.readOnly || geometry.isAligned(host));
  }

  private badEntry(cluster: GuestCluster, host: HostOffset): ImgfuseError {
    const { file, geometry } = this.parts;
    const offset = entryAt(cluster);
    return new ImgfuseError(
      'corrupt',
      `${file.path}: BAT entry ${cluster} at offset ${hex(offset)} leads to ${hex(host)}, where no cluster of this file is (guest ` +
        `offset ${hex(geometry.startOf(cluster))}); run imgfuse check -r all`,
      { path: file.path, offset },
    );
  }
}
