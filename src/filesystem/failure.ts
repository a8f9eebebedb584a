// The error that answers a request which makes no sense for the tree as it is, and what is told of an opening that was refused.

import { ImgfuseError } from '../errors/index.ts';

/** An opening was refused. */
export interface Refusal {
  /** as the user sees them: disk.raw, partitions/1.raw */
  readonly name: string;
  readonly holderName: string;
  readonly holderWrites: boolean;
  /** of the process that opened the other file; 0: not known */
  readonly holder: number;
}

/** @param errno of the reply */
export function failure(errno: number, sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence, { errno });
}
