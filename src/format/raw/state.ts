// The state that all threads of an open raw image share. There is no metadata, so there is no lock.

import { createWriteTrackerState } from '../write-tracker.ts';

export interface RawState {
  /** Float64: RawSize */
  readonly numbers: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
  /** the format was guessed, so the guest must not make the file look like another format (probe-guard.ts) */
  readonly probed: boolean;
}

export function createRawState(virtualSize: number, probed: boolean): RawState {
  const state = { numbers: new SharedArrayBuffer(8), tracker: createWriteTrackerState(), probed };
  new RawSize(state).setVirtualSize(virtualSize);
  return state;
}

/** The virtual size of an open raw image. It needs no lock: it is one aligned 64-bit word, so a read is never torn. */
export class RawSize {
  private readonly values: Float64Array;

  constructor({ numbers }: Pick<RawState, 'numbers'>) {
    this.values = new Float64Array(numbers);
  }

  /** In bytes. */
  get virtualSize(): number {
    return this.values[0]!;
  }

  setVirtualSize(size: number): void {
    this.values[0] = size;
  }
}
