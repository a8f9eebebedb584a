// The error that answers a request which makes no sense for the tree as it is.

import { ImgfuseError } from '../errors/index.ts';

/** @param errno of the reply */
export function failure(errno: number, sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence, { errno });
}
