// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only, so
// it may be used after the lock is released as long as the range stays reserved (R2, R3).

import { type GuestCluster, type GuestOffset, hex, hostOffset, UNSET } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { NOT_PENDING, type PendingLinks } from '../mapped/pending-links.ts';
import { type DataRun, MAX_LOOKS, type UnallocatedRun, type ZeroRun } from '../mapped/runs/run-mapper.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';
import { VDI_IMAGE_BLOCK_FREE, VDI_IMAGE_BLOCK_ZERO } from './header.ts';
import type { VdiNumbers } from './state.ts';
import type { BlockMap } from './table.ts';

export type Run = DataRun | ZeroRun | UnallocatedRun;
type Filled<R> = { -readonly [Field in keyof R]: R[Field] };

export interface MapperParts {
  readonly file: { readonly path: string };
  readonly geometry: Geometry;
  readonly blockMap: BlockMap;
  readonly pending: PendingLinks;
  readonly numbers: Pick<VdiNumbers, 'dataOffset' | 'end' | 'mapOffset'>;
}

export class Mapper {
  /** the answers of map() */
  private readonly data: Filled<DataRun> = { status: 'data', hostOffset: UNSET, length: UNSET };
  private readonly zero: Filled<ZeroRun> = { status: 'zero', length: UNSET };
  private readonly unallocated: Filled<UnallocatedRun> = { status: 'unallocated', length: UNSET };
  private readonly parts: MapperParts;

  constructor(parts: MapperParts) {
    this.parts = parts;
  }

  /** The longest run of one status (and, for data, of adjoining host blocks) from `offset` on. */
  map(offset: GuestOffset, maxLength: number): Run {
    const { geometry, numbers } = this.parts;
    const end = offset + maxLength;
    let block = geometry.clusterOf(offset);
    let entry = this.lookup(block);
    const run = this.runOf(entry);
    if (run.status === 'data') {
      const start = geometry.hostDataOf(entry, numbers.dataOffset);
      run.hostOffset = hostOffset(start + (offset - geometry.startOf(block)));
    }
    const mayAdjoin = run.status !== 'data' || geometry.blockExtra === 0;
    let covered = geometry.startOf(block) + geometry.clusterSize;
    for (let looks = 0; mayAdjoin && covered < end && looks < MAX_LOOKS; looks++) {
      block++;
      const next = this.lookup(block);
      if (run.status === 'data' ? next !== entry + 1 : this.runOf(next) !== run) break;
      entry = next;
      covered += geometry.clusterSize;
    }
    run.length = Math.min(covered, end) - offset;
    return run;
  }

  private runOf(entry: number): Filled<Run> {
    if (entry < VDI_IMAGE_BLOCK_ZERO) return this.data;
    return entry === VDI_IMAGE_BLOCK_FREE ? this.unallocated : this.zero;
  }

  /** Entry of a guest block as it will be once every pending link is made: free, discarded, or a checked index. */
  lookup(block: GuestCluster): number {
    const { blockMap, geometry, numbers, pending } = this.parts;
    const waiting = pending.find(block);
    if (waiting !== NOT_PENDING) return geometry.indexOf(waiting, numbers.dataOffset);
    failpoint('l2-load');
    const entry = blockMap.load(block);
    if (entry >= VDI_IMAGE_BLOCK_ZERO || this.isData(entry)) return entry;
    throw this.badEntry(block, entry);
  }

  /** An entry is the index of a block of the file. */
  isData(entry: number): boolean {
    return entry < this.parts.numbers.end;
  }

  private badEntry(block: GuestCluster, entry: number): ImgfuseError {
    const { file, geometry, numbers } = this.parts;
    const offset = numbers.mapOffset + block * ENTRY_BYTES;
    return new ImgfuseError(
      'corrupt',
      `${file.path}: map entry ${block} at offset ${hex(offset)} is ${hex(entry)}, which is no block of this file (guest offset ` +
        `${hex(geometry.startOf(block))}); run imgfuse check -r all`,
      { path: file.path, offset },
    );
  }
}
