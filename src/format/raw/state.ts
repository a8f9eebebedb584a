// What all threads of an open raw image share. There is no metadata, hence no lock.

import { createWriteTrackerState } from '../write-tracker.ts';

export interface RawState {
  /** Float64: RawSize */
  readonly numbers: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
  /** the format was guessed, so the guest must not write what would be taken for another */
  readonly probed: boolean;
}

export function createRawState(virtualSize: number, probed: boolean): RawState {
  const state = { numbers: new SharedArrayBuffer(8), tracker: createWriteTrackerState(), probed };
  new RawSize(state).setVirtualSize(virtualSize);
  return state;
}

/** The virtual size of an open raw image. Read and set without a lock: it is one aligned 64-bit word, never half of two. */
export class RawSize {
  private readonly values: Float64Array;

  constructor({ numbers }: Pick<RawState, 'numbers'>) {
    this.values = new Float64Array(numbers);
  }

  /** Bytes of the disk. */
  get virtualSize(): number {
    return this.values[0]!;
  }

  setVirtualSize(size: number): void {
    this.values[0] = size;
  }
}
