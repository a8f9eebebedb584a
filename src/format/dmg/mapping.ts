// Guest range -> runs. The runs of all block tables lie in shared memory, sorted by guest offset; what none of them maps reads
// as zeros. There is no lock, because nothing changes the image.

import { type GuestOffset, type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import type { DataRun, ZeroRun } from '../mapped/runs/run-mapper.ts';
import type { Run } from './block-table.ts';
import { isZero, RAW_RUN } from './run-types.ts';

/** A part of a compressed run. */
export interface CompressedRun {
  readonly status: 'compressed';
  readonly length: number;
  /** of the whole run */
  readonly run: Run;
  /** number of the run */
  readonly index: number;
}

const FIELDS = 5;

/** Puts sorted runs into memory that threads can share. */
export function shareRuns(runs: readonly Run[]): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(runs.length * FIELDS * Float64Array.BYTES_PER_ELEMENT);
  const fields = new Float64Array(shared);
  for (const [i, { type, start, bytes, hostOffset, storedBytes }] of runs.entries())
    fields.set([start, bytes, type, hostOffset, storedBytes], i * FIELDS);
  return shared;
}

export class Mapper {
  private readonly fields: Float64Array;
  private readonly count: number;
  /** the run of the last answer: reads go on where the last one ended */
  private last = 0;

  constructor(runs: SharedArrayBuffer) {
    this.fields = new Float64Array(runs);
    this.count = this.fields.length / FIELDS;
  }

  /** The run at `offset`, at most `length` bytes long; the range lies inside the disk. */
  map(offset: GuestOffset, length: number): DataRun | ZeroRun | CompressedRun {
    const index = this.find(offset);
    const run = this.runAt(index);
    const end = run === undefined ? 0 : run.start + run.bytes;
    if (run === undefined || end <= offset) {
      const next = this.runAt(index + 1);
      return { status: 'zero', length: next === undefined ? length : Math.min(length, next.start - offset) };
    }
    const part = Math.min(length, end - offset);
    if (isZero(run.type)) return { status: 'zero', length: part };
    if (run.type !== RAW_RUN) return { status: 'compressed', length: part, run, index };
    const place: HostOffset = hostOffset(run.hostOffset + offset - run.start);
    return { status: 'data', length: part, hostOffset: place };
  }

  /** Number of the last run that begins at `offset` or before; -1 if none does. */
  private find(offset: GuestOffset): number {
    const { fields, count, last } = this;
    const isAfter = (index: number): boolean => index >= count || fields[index * FIELDS]! > offset;
    if (isAfter(last + 1) && !isAfter(last)) return last;
    let low = -1;
    let high = count;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (isAfter(middle)) high = middle;
      else low = middle;
    }
    if (low >= 0) this.last = low;
    return low;
  }

  private runAt(index: number): Run | undefined {
    if (index < 0 || index >= this.count) return undefined;
    const [start, bytes, type, hostOffset, storedBytes] = this.fields.subarray(index * FIELDS, (index + 1) * FIELDS);
    return { type: type!, start: start!, bytes: bytes!, hostOffset: hostOffset!, storedBytes: storedBytes! };
  }
}
